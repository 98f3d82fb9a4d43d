//! TLS towards mail exchangers: how a connection begins it, and what a server's certificate is worth.
//!
//! In: authorities (a PEM file, at the start and at each reload), the name of a host, the bytes of a connection. Out: a
//! [`Connector`], one for each shard, that makes [`Tls`]; and, once a handshake is done, a judgement of the certificate.
//!
//! The handshake itself takes any certificate whose key the server has: whether it is good enough is a question to the
//! policy of a delivery, asked when the handshake has ended ([`Tls::vouched`], [`Tls::associated`]), and so of a session that
//! is resumed, too. A failed judgement is then the driver's to act on. That is what lets one cache of sessions serve every
//! policy. A certificate that webpki cannot read (X.509 version 1, broken DER) encrypts as well as any and is worth nothing:
//! every judgement of it is [`Fault::Invalid`].
//!
//! It refuses to ask about revocation, to show a certificate of ours, and versions before TLS 1.2 (RFC 8996).

use super::{Engine, Kind, Role, Tls, TlsError, drain, read_certificates};
use crate::limits;
use aws_lc_rs::digest;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::{ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, HandshakeKind, RootCertStore};
use rustls::{ProtocolVersion, SignatureScheme};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use webpki::{EndEntityCert, KeyUsage};

/// Where systems keep the authorities that they trust, one file of all: Debian, Fedora and its kin, SUSE, Alpine and the BSDs.
const SYSTEM_AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities that vouch for mail exchangers. Shared by all shards.
#[derive(Clone, Debug)]
pub struct Authorities(Kind<Arc<Trust>>);

pub(super) struct Trust {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    /// Where they came from.
    origin: Option<PathBuf>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("roots", &self.roots.len()).field("origin", &self.origin).finish()
    }
}

impl Authorities {
    /// Those in `file`; without one, the system's, or none where it has none.
    ///
    /// # Errors
    /// `file` cannot be read, or holds no certificate.
    pub fn load(file: Option<&Path>) -> Result<Authorities, TlsError> {
        let found = match file {
            Some(path) => Some((path, read_certificates(path)?)),
            None => SYSTEM_AUTHORITIES.iter().find_map(|path| {
                let path = Path::new(path);
                Some((path, read_certificates(path).ok()?))
            }),
        };
        let mut roots = RootCertStore::empty();
        let origin = found.map(|(path, certificates)| {
            // A system's file may hold what webpki does not read; it vouches for nobody then.
            roots.add_parsable_certificates(certificates);
            path.to_owned()
        });
        if let (Some(path), true) = (file, roots.is_empty()) {
            return Err(TlsError::File(path.to_owned(), "no certificate in it can be an authority".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(Authorities(Kind::Rustls(Arc::new(Trust { roots, provider, origin }))))
    }

    /// Those of the simulated world.
    #[cfg(any(test, feature = "sim"))]
    pub fn simulated() -> Authorities {
        Authorities(Kind::Sim)
    }

    /// For HTTPS with hosts that they vouch for.
    ///
    /// # Errors
    /// rustls refuses its own provider; or they are those of the simulated world.
    pub fn https(&self) -> Result<Arc<ClientConfig>, TlsError> {
        match &self.0 {
            Kind::Rustls(trust) => {
                let builder = ClientConfig::builder_with_provider(Arc::clone(&trust.provider))
                    .with_protocol_versions(rustls::DEFAULT_VERSIONS)
                    .map_err(|error| TlsError::Rustls(error.to_string()))?;
                Ok(Arc::new(builder.with_root_certificates(trust.roots.clone()).with_no_client_auth()))
            }
            #[cfg(any(test, feature = "sim"))]
            Kind::Sim => Err(TlsError::Rustls("there is no HTTPS in a simulation".to_owned())),
        }
    }

    /// Whether nobody vouches for anybody.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Kind::Rustls(trust) => trust.roots.is_empty(),
            #[cfg(any(test, feature = "sim"))]
            Kind::Sim => false,
        }
    }
}

/// What begins TLS on a connection as the client. One for each shard: its cache of sessions is behind a lock that nobody else
/// takes.
#[derive(Clone, Debug)]
pub struct Connector(Kind<(Arc<ClientConfig>, Arc<Trust>)>);

impl Connector {
    /// With an empty cache of sessions.
    ///
    /// # Errors
    /// rustls refuses its own provider.
    pub fn new(authorities: &Authorities) -> Result<Connector, TlsError> {
        let trust = match &authorities.0 {
            Kind::Rustls(trust) => Arc::clone(trust),
            #[cfg(any(test, feature = "sim"))]
            Kind::Sim => return Ok(Connector(Kind::Sim)),
        };
        let algorithms = trust.provider.signature_verification_algorithms;
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&trust.provider))
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .map_err(|error| TlsError::Rustls(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(algorithms)))
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(limits::TLS_CLIENT_SESSIONS);
        Ok(Connector(Kind::Rustls((Arc::new(config), trust))))
    }

    /// Begins TLS with the host of that name (SNI, RFC 6066 §3; an address literal names nobody): what is to be sent first is
    /// appended to `out`.
    ///
    /// # Errors
    /// It is no name of a host.
    pub fn connect(&self, host: &str, out: &mut Vec<u8>) -> Result<Tls, TlsError> {
        Ok(Tls(match &self.0 {
            Kind::Rustls((config, trust)) => {
                let failed = |why: String| TlsError::Rustls(format!("{host}: {why}"));
                let name = server_name(host).ok_or_else(|| failed("not the name of a host".to_owned()))?;
                let client = ClientConnection::new(Arc::clone(config), name).map_err(|e| failed(e.to_string()))?;
                let mut connection = Connection::Client(client);
                connection.set_buffer_limit(Some(limits::TLS_BUFFER_BYTES));
                drain(&mut connection, out).map_err(|e| failed(e.to_string()))?;
                Engine::Rustls(Box::new(connection), Role::Client(Arc::clone(trust)))
            }
            #[cfg(any(test, feature = "sim"))]
            Kind::Sim => Engine::Sim(crate::rt::sim::tls::SimTls::client(out)),
        }))
    }
}

fn server_name(host: &str) -> Option<ServerName<'static>> {
    let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let literal = literal.strip_prefix("ipv6:").unwrap_or(literal);
    ServerName::try_from(literal.to_owned()).ok()
}

/// Takes every certificate whose key the server has: see the module.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl Anybody {
    /// The signature of what webpki cannot read proves nothing, since such a certificate is never believed.
    fn check(
        certificate: &CertificateDer<'_>,
        check: impl FnOnce() -> Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        if EndEntityCert::try_from(certificate).is_err() { Ok(HandshakeSignatureValid::assertion()) } else { check() }
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Anybody::check(cert, || rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Anybody::check(cert, || rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// What a handshake with a server came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// 1.3, not 1.2.
    is_1_3: bool,
    /// By its number at IANA; small, as each event has it. 0: a simulated one.
    cipher: u16,
    /// By a ticket of an earlier one (RFC 8446 §2.2).
    pub resumed: bool,
}

impl Session {
    /// `TLSv1.3`
    pub fn version(self) -> &'static str {
        if self.is_1_3 { "TLSv1.3" } else { "TLSv1.2" }
    }

    /// `TLS13_AES_256_GCM_SHA384`
    pub fn cipher(self) -> &'static str {
        match self.cipher {
            0 => "simulated",
            number => rustls::CipherSuite::from(number).as_str().unwrap_or_default(),
        }
    }
}

/// Whose certificate a TLSA record describes (RFC 7671 §5), of the two usages that SMTP knows (RFC 7672 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// DANE-TA(2): an authority of the server's.
    Authority,
    /// DANE-EE(3): the server itself.
    Server,
}

/// Which part of it (RFC 6698 §2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Cert(0)
    Certificate,
    /// SPKI(1)
    PublicKey,
}

/// In which form (RFC 6698 §2.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matching {
    /// Full(0)
    Full,
    /// SHA2-256(1)
    Sha256,
    /// SHA2-512(2)
    Sha512,
}

/// A TLSA record that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// Whose.
    pub usage: Usage,
    /// What of it.
    pub selector: Selector,
    /// In which form.
    pub matching: Matching,
    /// That form.
    pub data: Box<[u8]>,
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It names other hosts.
    Name,
    /// It is too old, or too young, or one between it and its authority is.
    Expired,
    /// No authority that is trusted here vouches for it.
    Untrusted,
    /// No TLSA record describes it, or its authority.
    NoAssociation,
    /// It cannot be read, or is none for servers.
    Invalid,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Name => "its certificate is for other names",
            Fault::Expired => "its certificate has expired, or is not valid yet",
            Fault::Untrusted => "no trusted authority vouches for its certificate",
            Fault::NoAssociation => "no TLSA record of it fits its certificate",
            Fault::Invalid => "its certificate cannot be read, or is not one for servers",
        })
    }
}

impl Tls {
    /// Of a connection to a server, once the handshake has ended.
    pub fn session(&self) -> Session {
        match &self.0 {
            Engine::Rustls(connection, _) => Session {
                is_1_3: connection.protocol_version() == Some(ProtocolVersion::TLSv1_3),
                cipher: connection.negotiated_cipher_suite().map_or(0, |suite| suite.suite().into()),
                resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            },
            #[cfg(any(test, feature = "sim"))]
            Engine::Sim(_) => Session { is_1_3: true, cipher: 0, resumed: false },
        }
    }

    /// Whether our authorities vouch for the server, and its certificate has one of `names` (RFC 5280 §6, RFC 9525).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn vouched(&self, names: &[&str]) -> Result<(), Fault> {
        match &self.0 {
            Engine::Rustls(connection, Role::Client(trust)) => {
                let (leaf, others) =
                    connection.peer_certificates().and_then(<[_]>::split_first).ok_or(Fault::Invalid)?;
                chained(leaf, others, &trust.roots.roots, names, &trust.provider)
            }
            Engine::Rustls(_, Role::Server(..)) => Err(Fault::Invalid),
            #[cfg(any(test, feature = "sim"))]
            Engine::Sim(sim) => sim.vouched(names),
        }
    }

    /// Which of `records` describes the server (RFC 7672 §3): DANE-EE(3) whatever its names and dates, DANE-TA(2) with one of
    /// `names`.
    ///
    /// # Errors
    /// None does; of DANE-TA(2) records, what is wrong with the one that came farthest.
    pub fn associated<'a>(&self, records: &'a [Association], names: &[&str]) -> Result<&'a Association, Fault> {
        match &self.0 {
            Engine::Rustls(connection, Role::Client(trust)) => {
                let (leaf, others) =
                    connection.peer_certificates().and_then(<[_]>::split_first).ok_or(Fault::Invalid)?;
                associated(leaf, others, records, names, &trust.provider)
            }
            Engine::Rustls(_, Role::Server(..)) => Err(Fault::Invalid),
            #[cfg(any(test, feature = "sim"))]
            Engine::Sim(_) => Err(Fault::NoAssociation),
        }
    }
}

fn chained(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    names: &[&str],
    provider: &CryptoProvider,
) -> Result<(), Fault> {
    let leaf = EndEntityCert::try_from(leaf).map_err(|_| Fault::Invalid)?;
    let algorithms = provider.signature_verification_algorithms.all;
    leaf.verify_for_usage(algorithms, anchors, others, UnixTime::now(), KeyUsage::server_auth(), None, None).map_err(
        |error| match error {
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => Fault::Expired,
            // The last is what a namesake of an authority has signed.
            webpki::Error::UnknownIssuer
            | webpki::Error::CaUsedAsEndEntity
            | webpki::Error::InvalidSignatureForPublicKey => Fault::Untrusted,
            _ => Fault::Invalid,
        },
    )?;
    let named = |name: &&str| server_name(name).is_some_and(|n| leaf.verify_is_valid_for_subject_name(&n).is_ok());
    if names.iter().any(named) { Ok(()) } else { Err(Fault::Name) }
}

fn associated<'a>(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    records: &'a [Association],
    names: &[&str],
    provider: &CryptoProvider,
) -> Result<&'a Association, Fault> {
    // Its signature in the handshake was checked only if webpki reads it.
    EndEntityCert::try_from(leaf).map_err(|_| Fault::Invalid)?;
    // RFC 7672 §3.1.1: neither its names nor its dates matter.
    let server = records.iter().find(|r| r.usage == Usage::Server && describes(r, leaf));
    if let Some(record) = server {
        return Ok(record);
    }
    let mut fault = Fault::NoAssociation;
    for record in records.iter().filter(|r| r.usage == Usage::Authority) {
        // RFC 7672 §3.1.2: servers send the authority along; a whole certificate in DNS does as well.
        let in_dns = (record.selector == Selector::Certificate && record.matching == Matching::Full)
            .then(|| CertificateDer::from(&*record.data));
        for authority in others.iter().filter(|c| describes(record, c)).chain(&in_dns) {
            let Ok(anchor) = webpki::anchor_from_trusted_cert(authority) else { continue };
            if !is_current(authority) {
                fault = Fault::Expired;
                continue;
            }
            match chained(leaf, others, &[anchor], names, provider) {
                Ok(()) => return Ok(record),
                // That it does not sign this certificate says less than what else may be wrong.
                Err(Fault::Untrusted) => {}
                Err(found) => fault = found,
            }
        }
    }
    Err(fault)
}

/// An authority by DANE-TA(2) has dates that count, which webpki does not look at in an anchor.
fn is_current(certificate: &[u8]) -> bool {
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
    super::validity(certificate).is_some_and(|(from, to)| (from..=to).contains(&now))
}

fn describes(record: &Association, certificate: &CertificateDer<'_>) -> bool {
    let key;
    let part: &[u8] = match record.selector {
        Selector::Certificate => certificate,
        Selector::PublicKey => match EndEntityCert::try_from(certificate) {
            Ok(parsed) => {
                key = parsed.subject_public_key_info();
                &key
            }
            Err(_) => return false,
        },
    };
    match record.matching {
        Matching::Full => part == &*record.data,
        Matching::Sha256 => digest::digest(&digest::SHA256, part).as_ref() == &*record.data,
        Matching::Sha512 => digest::digest(&digest::SHA512, part).as_ref() == &*record.data,
    }
}
