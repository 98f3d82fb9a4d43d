//! TLS for sessions: rustls without I/O of its own, and the certificates it shows.
//!
//! In: files of certificates and keys (at start and at each reload), the bytes of a connection. Out: an [`Acceptor`], which
//! all shards share, and for each connection a [`Tls`] that turns bytes of the socket into bytes of SMTP and back. Lives in
//! the session that owns the connection. It refuses a key that others than its owner can read, and versions before TLS 1.2
//! (RFC 8996). What is special to connections of ours to others is in [`client`].
//!
//! Tickets are sealed with keys that all shards share, so that a client resumes on whichever shard it meets; no table of
//! sessions is kept, so no lock is shared.

pub mod client;
#[cfg(test)]
mod tests;
mod vouch;

use crate::limits;
use aws_lc_rs::digest;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{Connection, ProtocolVersion, RootCertStore, ServerConfig, ServerConnection};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vouch::Vouching;

/// Which files to load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Certificate chain and key, PEM; the first pair is for clients that name no server, or one that is not ours.
    pub certificates: Vec<(PathBuf, PathBuf)>,
    /// Authorities that vouch for client certificates, PEM.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{0}: {1}")]
    File(PathBuf, String),
    /// A key that others can read.
    #[error(
        "{0}: mode {1:04o} lets others than its owner read this private key; chmod 600 it (640 if its group is the service's alone)"
    )]
    OpenKey(PathBuf, u32),
    /// Certificate and key do not fit.
    #[error("{0} and {1}: {2}")]
    Pair(PathBuf, PathBuf, String),
    /// rustls.
    #[error("TLS: {0}")]
    Rustls(String),
}

/// One certificate.
struct Entry {
    /// Lower case; `*.` in front stands for one label.
    names: Vec<String>,
    key: Arc<CertifiedKey>,
    /// RFC 5929 §4.
    end_point: Option<Arc<[u8]>>,
    not_after: Option<i64>,
}

/// All certificates, by the name a client asks for (RFC 6066 §3).
struct Certificates(Vec<Entry>);

impl Certificates {
    fn find(&self, name: Option<&str>) -> &Entry {
        let of_name = |name: &str| {
            let exact = self.0.iter().find(|entry| entry.names.iter().any(|n| n == name));
            let parent = name.split_once('.').map(|(_, parent)| parent);
            let wild = |entry: &&Entry| {
                entry.names.iter().any(|n| n.strip_prefix("*.").is_some_and(|suffix| parent == Some(suffix)))
            };
            exact.or_else(|| self.0.iter().find(wild))
        };
        name.and_then(|name| of_name(&name.to_ascii_lowercase())).unwrap_or(&self.0[0])
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|entry| &entry.names)).finish()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.find(hello.server_name()).key))
    }
}

/// What begins TLS on a connection as the server. Shared by all shards.
#[derive(Clone, Debug)]
pub struct Acceptor(Kind<ServerParts>);

type ServerParts = (Arc<ServerConfig>, Arc<Certificates>, Option<Arc<Vouching>>);

/// rustls with what it needs, or its stand-in.
#[derive(Clone, Debug)]
enum Kind<T> {
    Rustls(T),
    #[cfg(any(test, feature = "sim"))]
    Sim,
}

impl Acceptor {
    /// Loads what `files` names; or says what is wrong with each of them.
    pub fn load(files: &Files) -> Result<Acceptor, Vec<TlsError>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut entries = Vec::new();
        let mut errors = Vec::new();
        for (certificate, key) in &files.certificates {
            load_pair(certificate, key, &provider).map_or_else(|e| errors.push(e), |entry| entries.push(entry));
        }
        let authorities = files.client_ca.as_deref().map(|path| load_authorities(path, &provider)).transpose();
        match authorities {
            Ok(authorities) if errors.is_empty() => Acceptor::new(entries, authorities, provider).map_err(|e| vec![e]),
            Ok(_) => Err(errors),
            Err(error) => {
                errors.push(error);
                Err(errors)
            }
        }
    }

    fn new(
        entries: Vec<Entry>,
        authorities: Option<Arc<dyn ClientCertVerifier>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Acceptor, TlsError> {
        let certificates = Arc::new(Certificates(entries));
        let failed = |error: rustls::Error| TlsError::Rustls(error.to_string());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .map_err(failed)?;
        let vouching = authorities.map(|inner| Arc::new(Vouching(inner)));
        let builder = match &vouching {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(Arc::<Vouching>::clone(verifier)),
        };
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Certificates>::clone(&certificates);
        let mut config = builder.with_cert_resolver(resolver);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(failed)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        // Ours is by strength; all of them are strong, but scanners count a client's choice as none.
        config.ignore_client_order = true;
        Ok(Acceptor(Kind::Rustls((Arc::new(config), certificates, vouching))))
    }

    /// The stand-in of the simulated world: see [`super::sim::tls`].
    #[cfg(any(test, feature = "sim"))]
    pub fn simulated() -> Acceptor {
        Acceptor(Kind::Sim)
    }

    /// Begins TLS on a connection.
    pub fn accept(&self) -> Result<Tls, TlsError> {
        Ok(Tls(match &self.0 {
            Kind::Rustls((config, certificates, vouching)) => {
                let server = ServerConnection::new(Arc::clone(config)).map_err(|e| TlsError::Rustls(e.to_string()))?;
                let mut connection = Connection::Server(server);
                connection.set_buffer_limit(Some(limits::TLS_BUFFER_BYTES));
                Engine::Rustls(Box::new(connection), Role::Server(Arc::clone(certificates), vouching.clone()))
            }
            #[cfg(any(test, feature = "sim"))]
            Kind::Sim => Engine::Sim(super::sim::tls::SimTls::server()),
        }))
    }

    /// Names and ends of validity (seconds since 1970) of the certificates, for the log.
    pub fn certificates(&self) -> Vec<(String, Option<i64>)> {
        match &self.0 {
            Kind::Rustls((_, all, _)) => all.0.iter().map(|entry| (entry.names.join(", "), entry.not_after)).collect(),
            #[cfg(any(test, feature = "sim"))]
            Kind::Sim => Vec::new(),
        }
    }
}

/// What a handshake told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// SHA-256 of the client's certificate, if it has shown one that our authorities vouch for.
    pub fingerprint: Option<[u8; 32]>,
    /// RFC 9266: with TLS 1.3, 32 octets that only the two ends know.
    pub exporter: Option<[u8; 32]>,
    /// RFC 5929 §4: the hash of our certificate, where it is defined.
    pub end_point: Option<Arc<[u8]>>,
    /// `TLSv1.3 TLS13_AES_256_GCM_SHA384`
    pub description: String,
}

/// What one call of [`Tls::receive`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The handshake has ended with this call: [`Tls::facts`] has what it told.
    Established,
    /// Nothing special.
    Going,
    /// The peer has said that nothing more comes (close_notify).
    Ended,
}

/// TLS of one connection.
#[derive(Debug)]
pub struct Tls(Engine);

#[derive(Debug)]
enum Engine {
    Rustls(Box<Connection>, Role),
    #[cfg(any(test, feature = "sim"))]
    Sim(super::sim::tls::SimTls),
}

/// Which end this is, and what it needs to say whom it speaks to.
#[derive(Debug)]
enum Role {
    Server(Arc<Certificates>, Option<Arc<Vouching>>),
    Client(Arc<client::Trust>),
}

impl Tls {
    /// Takes bytes of the socket: what they decrypt to is appended to `plain`, what is to be sent in answer to `out`.
    ///
    /// # Errors
    /// The peer broke the protocol, or no version, cipher or certificate suits both: send `out` (an alert), then close.
    pub fn receive(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Progress, String> {
        match &mut self.0 {
            Engine::Rustls(connection, _) => {
                let mut progress = Progress::Going;
                while !bytes.is_empty() {
                    let was_handshaking = connection.is_handshaking();
                    let failed = |error: io::Error| error.to_string();
                    connection.read_tls(&mut bytes).map_err(failed)?;
                    let state = match connection.process_new_packets() {
                        Ok(state) => state,
                        Err(error) => {
                            drop(drain(connection, out));
                            return Err(error.to_string());
                        }
                    };
                    let at = plain.len();
                    plain.resize(at + state.plaintext_bytes_to_read(), 0);
                    let end = connection.reader().read(&mut plain[at..]).map_or(at, |n| at + n);
                    plain.truncate(end);
                    if state.peer_has_closed() {
                        progress = Progress::Ended;
                    } else if was_handshaking && !connection.is_handshaking() {
                        progress = Progress::Established;
                    }
                }
                drain(connection, out).map_err(|e| e.to_string())?;
                Ok(progress)
            }
            #[cfg(any(test, feature = "sim"))]
            Engine::Sim(sim) => sim.receive(bytes, plain, out),
        }
    }

    /// Encrypts: appends to `out` what is to be sent. Before the handshake has ended it is kept, and sent then.
    pub fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        match &mut self.0 {
            Engine::Rustls(connection, _) => {
                let mut rest = plain;
                while !rest.is_empty() {
                    let taken = connection.writer().write(rest).map_err(|e| e.to_string())?;
                    if taken == 0 {
                        return Err("more replies than a handshake may hold up".to_owned());
                    }
                    rest = &rest[taken..];
                    drain(connection, out).map_err(|e| e.to_string())?;
                }
                Ok(())
            }
            #[cfg(any(test, feature = "sim"))]
            Engine::Sim(sim) => {
                sim.send(plain, out);
                Ok(())
            }
        }
    }

    /// Appends close_notify (RFC 8446 §6.1): without it the peer cannot tell our end from an attacker's.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        match &mut self.0 {
            Engine::Rustls(connection, _) => {
                connection.send_close_notify();
                // The connection ends; what cannot be sent is not.
                drop(drain(connection, out));
            }
            #[cfg(any(test, feature = "sim"))]
            Engine::Sim(_) => {}
        }
    }

    /// Whether the handshake goes on.
    pub fn is_handshaking(&self) -> bool {
        match &self.0 {
            Engine::Rustls(connection, _) => connection.is_handshaking(),
            #[cfg(any(test, feature = "sim"))]
            Engine::Sim(sim) => sim.is_handshaking(),
        }
    }

    /// What the handshake told of a client.
    pub fn facts(&self) -> Facts {
        match &self.0 {
            Engine::Rustls(connection, role) => {
                let sha256 = |der: &CertificateDer<'_>| {
                    let hash = digest::digest(&digest::SHA256, der);
                    <[u8; 32]>::try_from(hash.as_ref()).expect("SHA-256 has 32 octets")
                };
                let version = match connection.protocol_version() {
                    Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                    Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                    _ => "TLS",
                };
                let suite = connection.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
                let exporter = (version == "TLSv1.3")
                    .then(|| connection.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[])).ok());
                let (end_point, vouching) = match (&**connection, role) {
                    (Connection::Server(server), Role::Server(certificates, vouching)) => {
                        (certificates.find(server.server_name()).end_point.clone(), vouching.as_ref())
                    }
                    _ => (None, None),
                };
                let vouched = |chain: &&[CertificateDer<'_>]| vouching.is_some_and(|v| v.vouches(chain));
                let chain = connection.peer_certificates().filter(vouched);
                Facts {
                    fingerprint: chain.and_then(|chain| chain.first()).map(sha256),
                    exporter: exporter.flatten(),
                    end_point,
                    description: format!("{version} {}", suite.unwrap_or_default()),
                }
            }
            #[cfg(any(test, feature = "sim"))]
            Engine::Sim(_) => Facts { description: "TLSv1.3 simulated".to_owned(), ..Facts::default() },
        }
    }
}

fn drain(connection: &mut Connection, out: &mut Vec<u8>) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(out)?;
    }
    Ok(())
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |why: String| TlsError::File(path.to_owned(), why);
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?.collect();
    let found = found.map_err(|e| failed(e.to_string()))?;
    if found.is_empty() { Err(failed("no certificate in PEM form in it".to_owned())) } else { Ok(found) }
}

fn load_authorities(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let failed = |why: String| TlsError::File(path.to_owned(), why);
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|e| failed(e.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|e| failed(e.to_string()))
}

fn load_pair(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Entry, TlsError> {
    let chain = read_certificates(certificate)?;
    let failed = |why: String| TlsError::File(key.to_owned(), why);
    let mode = std::fs::metadata(key).map_err(|e| failed(e.to_string()))?.mode();
    if mode & 0o007 != 0 {
        return Err(TlsError::OpenKey(key.to_owned(), mode & 0o7777));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| failed(e.to_string()))?;
    let pair = |why: String| TlsError::Pair(certificate.to_owned(), key.to_owned(), why);
    let certified = CertifiedKey::from_der(chain, private, provider).map_err(|e| pair(e.to_string()))?;
    let leaf = certified.cert.first().expect("a chain has a certificate");
    let parsed = webpki::EndEntityCert::try_from(leaf).map_err(|e| pair(e.to_string()))?;
    let names = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
    let end_point = end_point(leaf);
    Ok(Entry { names, end_point, not_after: not_after(leaf), key: Arc::new(certified) })
}

/// RFC 5929 §4.1: the certificate's hash, by the hash of its own signature; SHA-256 where that is MD5 or SHA-1. Nothing for
/// signatures without one hash (Ed25519, RSASSA-PSS), where the channel binding is not defined.
fn end_point(certificate: &[u8]) -> Option<Arc<[u8]>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    let (_, certificate_body, _) = element(certificate)?;
    let (_, _, behind_tbs) = element(certificate_body)?;
    let (_, algorithm, _) = element(behind_tbs)?;
    let (_, oid, _) = element(algorithm)?;
    let hash = match (oid.strip_prefix(RSA), oid.strip_prefix(ECDSA)) {
        (Some([4 | 5 | 11]), _) | (_, Some([2])) => &digest::SHA256,
        (Some([12]), _) | (_, Some([3])) => &digest::SHA384,
        (Some([13]), _) | (_, Some([4])) => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(hash, certificate).as_ref().into())
}

/// The end of validity, seconds since 1970.
fn not_after(certificate: &[u8]) -> Option<i64> {
    validity(certificate).map(|(_, to)| to)
}

/// Beginning and end of validity, seconds since 1970.
fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (_, body, _) = element(certificate)?;
    let (_, mut tbs, _) = element(body)?;
    // Version (if given), serial number, signature, issuer; then the validity.
    loop {
        let (tag, _, rest) = element(tbs)?;
        let skip_more = tag == 0xa0;
        tbs = rest;
        if !skip_more {
            break;
        }
    }
    let (_, _, rest) = element(tbs)?;
    let (_, _, rest) = element(rest)?;
    let (_, validity, _) = element(rest)?;
    let (tag, from, rest) = element(validity)?;
    let from = seconds(tag, from)?;
    let (tag, to, _) = element(rest)?;
    Some((from, seconds(tag, to)?))
}

/// A time of a certificate.
fn seconds(tag: u8, time: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(time).ok()?;
    // UTCTime has two digits of the year: 1950 to 2049 (RFC 5280 §4.1.2.5.1).
    let text = match tag {
        0x17 if text.get(..2)? < "50" => format!("20{text}"),
        0x17 => format!("19{text}"),
        _ => text.to_owned(),
    };
    jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", &text)
        .ok()?
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|z| z.timestamp().as_second())
}

/// Tag and contents of the DER element at the front, and what is behind it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0usize, |sum, b| sum << 8 | usize::from(*b)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}
