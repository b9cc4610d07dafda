//! Secrets and certificates of the operator's: `-object secret` and `-object tls-creds-x509`.

use base::object::{Object, Property};
use base::prop_enum;
use base::props::{PropSpec, Props};
use base::tls::{TlsError, X509, X509Options};
use block::secret::SecretOptions;

/// The type of secrets.
pub const SECRET: &str = "secret";
/// The type of certificates.
pub const TLS_X509: &str = "tls-creds-x509";

prop_enum! {
    /// How a secret is written.
    pub enum SecretFormat: "QCryptoSecretFormat", "" {
        /// As it is.
        Raw = "raw",
        /// In base 64.
        Base64 = "base64",
    }
}

prop_enum! {
    /// The end of a connection that certificates are for.
    pub enum TlsEndpoint: "QCryptoTLSCredsEndpoint", "" {
        /// Who connects.
        Client = "client",
        /// Who is connected to.
        Server = "server",
    }
}

/// What is said of a secret.
#[derive(Clone, Debug, Props)]
pub struct SecretProps {
    /// The secret itself.
    pub data: Option<String>,
    /// The file that it is in.
    pub file: Option<String>,
    /// How it is written.
    #[prop(hide_default)]
    pub format: SecretFormat,
    /// Initialisation vector of its encryption.
    pub iv: Option<String>,
    /// The secret that it is encrypted with.
    pub keyid: Option<String>,
}

impl SecretProps {
    pub(crate) fn options(self) -> SecretOptions {
        let format = Some(self.format.as_str().into());
        SecretOptions { data: self.data, file: self.file, format, keyid: self.keyid, iv: self.iv }
    }
}

/// What is said of certificates.
#[derive(Clone, Debug, Props)]
pub struct X509Props {
    /// Where they are.
    pub dir: Option<String>,
    /// The end of a connection that they are for.
    #[prop(hide_default)]
    pub endpoint: TlsEndpoint,
    /// The secret that the key is encrypted with.
    pub passwordid: Option<String>,
    /// Which algorithms are acceptable; kept for who asks.
    pub priority: Option<String>,
    /// Whether they are checked for sense; they always are.
    #[prop(name = "sanity-check", default = true, hide_default)]
    pub sanity_check: bool,
    /// Whether the peer has to have one too.
    #[prop(name = "verify-peer", default = true, hide_default)]
    pub verify_peer: bool,
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It is not said where they are.
    #[error("Missing 'dir' property value")]
    NoDir,
    /// The key is encrypted.
    #[error("encrypted keys are not available in this build")]
    EncryptedKey,
    /// There are none: the library that encrypts wants some.
    #[error("{0} is not available in this build, use tls-creds-x509")]
    NoCertificates(String),
    /// They cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl X509Props {
    pub(crate) fn load(self) -> Result<X509, CredentialsError> {
        let dir = self.dir.ok_or(CredentialsError::NoDir)?.into();
        if self.passwordid.is_some() {
            return Err(CredentialsError::EncryptedKey);
        }
        let server = self.endpoint == TlsEndpoint::Server;
        Ok(X509::load(X509Options { dir, server, verify_peer: self.verify_peer })?)
    }
}

/// The properties of a type, if it is one of these.
pub fn specs(type_name: &str) -> Option<&'static [PropSpec]> {
    match type_name {
        SECRET => Some(SecretProps::specs()),
        TLS_X509 => Some(X509Props::specs()),
        _ => None,
    }
}

/// The object as the tree shows it, secrets too: who may look at the tree may do anything anyway.
pub(crate) fn object(type_name: &str, props: &dyn Props, specs: &'static [PropSpec]) -> Object {
    let property = |spec: &PropSpec| {
        let listed = crate::objects::listed(spec);
        Property::fixed(spec.name, listed.type_name, props.get(spec.name).unwrap_or_default())
    };
    Object::new(type_name).with(specs.iter().map(property).collect::<Vec<_>>())
}
