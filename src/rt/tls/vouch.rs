//! Client certificates: whose authority `client_ca` is.
//!
//! In: the certificates that a client shows. Out: whether our authorities vouch for them. A certificate from elsewhere is
//! no reason to break off: mail servers show their own to everybody who asks, and go on in the clear, or not at all, if the
//! handshake fails. Such a client is one without certificate. It refuses, with an alert, only who does not have the key
//! of what it shows.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::sync::Arc;

/// See the module. Shared by all shards.
#[derive(Debug)]
pub(super) struct Vouching(pub(super) Arc<dyn ClientCertVerifier>);

impl Vouching {
    /// Whether our authorities vouch for this chain now. Asked when a handshake has ended, and so of a session that is
    /// resumed, too: its certificate may have run out since.
    pub(super) fn vouches(&self, chain: &[CertificateDer<'_>]) -> bool {
        chain
            .split_first()
            .is_some_and(|(leaf, others)| self.0.verify_client_cert(leaf, others, UnixTime::now()).is_ok())
    }
}

impl ClientCertVerifier for Vouching {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    /// Any: [`Vouching::vouches`] judges it.
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
