//! What tests of servers stand on: credentials, and clients that encrypt.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use base::tls::{X509, X509Options};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Certificates of a server that calls itself `localhost`, in this directory, and what a client
/// trusts.
pub fn certificates(dir: &Path) -> (Arc<X509>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for (name, pem) in [
        ("ca-cert.pem", made.cert.pem()),
        ("server-cert.pem", made.cert.pem()),
        ("server-key.pem", made.signing_key.serialize_pem()),
    ] {
        std::fs::write(dir.join(name), pem).unwrap();
    }
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let options = X509Options { dir: dir.into(), server: true, verify_peer: false };
    (Arc::new(X509::load(options).unwrap()), Arc::new(config))
}

/// A client's connection to it.
pub fn encrypt(
    stream: UnixStream,
    config: Arc<ClientConfig>,
) -> StreamOwned<ClientConnection, UnixStream> {
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), stream)
}
