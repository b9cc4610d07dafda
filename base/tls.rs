//! Credentials for encrypted connections (`-object tls-creds-x509`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::report::strerror;

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing.
    #[error("Unable to access credentials {}: {}", path.display(), strerror(source))]
    Access {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("Cannot load {what} '{}': {reason}", path.display())]
    Load {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate, the key and the authority do not go together.
    #[error("Unable to use credentials: {0}")]
    Unusable(String),
    /// They are for the other end of a connection.
    #[error("Expected TLS credentials for a server endpoint")]
    NotAServer,
}

/// What is said of credentials with certificates.
#[derive(Clone, Debug)]
pub struct X509Options {
    /// Where the files are.
    pub dir: PathBuf,
    /// They are a server's; otherwise a client's.
    pub server: bool,
    /// The peer has to have a certificate too.
    pub verify_peer: bool,
}

/// Credentials with certificates.
pub struct X509 {
    options: X509Options,
    server: RwLock<Option<Arc<ServerConfig>>>,
}

impl X509 {
    /// Reads the files.
    pub fn load(options: X509Options) -> Result<Self, TlsError> {
        let server = options.server.then(|| server_config(&options)).transpose()?;
        Ok(X509 { options, server: RwLock::new(server) })
    }

    /// Reads the files again; connections that are there go on with what they have.
    pub fn reload(&self) -> Result<(), TlsError> {
        let server = self.options.server.then(|| server_config(&self.options)).transpose()?;
        *self.server.write() = server;
        Ok(())
    }

    /// Whether the peer has to have a certificate.
    pub fn verifies_peer(&self) -> bool {
        self.options.verify_peer
    }

    /// What a server needs.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.server.read().clone().ok_or(TlsError::NotAServer)
    }
}

fn server_config(options: &X509Options) -> Result<Arc<ServerConfig>, TlsError> {
    let authority = certificates("CA certificate", &options.dir.join("ca-cert.pem"))?;
    let chain = certificates("certificate", &options.dir.join("server-cert.pem"))?;
    let key = key(&options.dir.join("server-key.pem"))?;
    let unusable = |error: &dyn std::fmt::Display| TlsError::Unusable(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    let builder = if options.verify_peer {
        let mut roots = RootCertStore::empty();
        for certificate in authority {
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| unusable(&error))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| unusable(&error))?;
    // Nobody resumes a session, and viewers are known that wait for ever if tickets and the first data
    // come at once.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Access { path: path.into(), source })
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let load = |reason: String| TlsError::Load { what, path: path.into(), reason };
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| load(error.to_string()))?;
    if found.is_empty() {
        return Err(load("No certificate was found.".into()));
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| TlsError::Load {
        what: "key",
        path: path.into(),
        reason: error.to_string(),
    })
}
