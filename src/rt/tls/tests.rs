#![allow(clippy::unwrap_used)]

mod connector;

use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};

// --- certificates, made anew for each test ------------------------------------------------------------------------------

const OID_ECDSA_SHA256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const OID_EC_KEY: &[u8] = &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const OID_P256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const OID_COMMON_NAME: &[u8] = &[0x06, 3, 0x55, 4, 3];
const OID_BASIC_CONSTRAINTS: &[u8] = &[0x06, 3, 0x55, 0x1d, 0x13];
const OID_SUBJECT_ALT_NAME: &[u8] = &[0x06, 3, 0x55, 0x1d, 0x11];

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[tag, 0x82, length[0], length[1]], &body[..]].concat()
}

/// DER allows a length one form only.
fn short(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    match body.len() {
        0..=0x7f => [&[tag, body.len() as u8], &body[..]].concat(),
        0x80..=0xff => [&[tag, 0x81, body.len() as u8], &body[..]].concat(),
        _ => der(tag, parts),
    }
}

/// Somebody with a key, and a certificate for it.
struct Holder {
    key: EcdsaKeyPair,
    pkcs8: Vec<u8>,
    name: Vec<u8>,
    certificate: Vec<u8>,
}

impl Holder {
    /// Its certificate is the issuer's work, or its own.
    fn new(name: &str, issuer: Option<&Holder>, years: &str) -> Holder {
        Holder::of_version(3, name, issuer, years)
    }

    fn of_version(version: u8, name: &str, issuer: Option<&Holder>, years: &str) -> Holder {
        let host = name;
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let pkcs8 = key.to_pkcs8v1().unwrap().as_ref().to_vec();
        let name = short(0x30, &[&short(0x31, &[&short(0x30, &[OID_COMMON_NAME, &short(0x0c, &[name.as_bytes()])])])]);
        let (from, to) = years.split_once('-').unwrap();
        let time = |year: &str| short(0x18, &[format!("{year}0101000000Z").as_bytes()]);
        let algorithm = short(0x30, &[OID_ECDSA_SHA256]);
        let point = short(0x03, &[&[0], key.public_key().as_ref()]);
        let public = short(0x30, &[&short(0x30, &[OID_EC_KEY, OID_P256]), &point]);
        // Who has no issuer is an authority.
        let is_authority = short(0x30, if issuer.is_none() { &[&[1, 1, 0xff]] } else { &[] });
        let constraints = short(0x30, &[OID_BASIC_CONSTRAINTS, &short(0x04, &[&is_authority])]);
        let alternative = short(0x30, &[&short(0x82, &[host.as_bytes()])]);
        let alternative = short(0x30, &[OID_SUBJECT_ALT_NAME, &short(0x04, &[&alternative])]);
        let extensions = short(0xa3, &[&short(0x30, &[&constraints, &alternative])]);
        let (number, extensions): (&[u8], &[u8]) = match version {
            1 => (&[2, 1, 7], &[]),
            _ => (&[0xa0, 3, 2, 1, 2, 2, 1, 7], &extensions),
        };
        let tbs = short(
            0x30,
            &[
                number,
                &algorithm,
                issuer.map_or(&name, |issuer| &issuer.name),
                &short(0x30, &[&time(from), &time(to)]),
                &name,
                &public,
                extensions,
            ],
        );
        let by = issuer.map_or(&key, |issuer| &issuer.key);
        let signature = by.sign(&SystemRandom::new(), &tbs).unwrap();
        let certificate = short(0x30, &[&tbs, &algorithm, &short(0x03, &[&[0], signature.as_ref()])]);
        Holder { key, pkcs8, name, certificate }
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.certificate.clone())
    }

    fn fingerprint(&self) -> Option<[u8; 32]> {
        digest::digest(&digest::SHA256, &self.certificate).as_ref().try_into().ok()
    }
}

const NOW: &str = "2020-2120";

fn write(path: PathBuf, kind: &str, der: &[u8]) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let text = format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", BASE64_STANDARD.encode(der));
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// One whose clients' authority is this.
fn acceptor(authority: &Holder) -> Acceptor {
    let folder = tempfile::tempdir().unwrap();
    let server = Holder::new("relay.test", Some(authority), NOW);
    let at = |name: &str| folder.path().join(name);
    let pair =
        (write(at("cert.pem"), "CERTIFICATE", &server.certificate), write(at("key.pem"), "PRIVATE KEY", &server.pkcs8));
    let client_ca = Some(write(at("ca.pem"), "CERTIFICATE", &authority.certificate));
    Acceptor::load(&Files { certificates: vec![pair], client_ca }).unwrap()
}

// --- a client that shows what it is told, whatever the server asks for ------------------------------------------------------

#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct Shows(Option<Arc<CertifiedKey>>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

type Version = &'static SupportedProtocolVersion;
const VERSIONS: [Version; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// A client with this certificate, and the key of `signs`.
fn client(version: Version, shows: Option<(&Holder, &Holder)>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certified = shows.map(|(shown, signs)| {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signs.pkcs8.clone()));
        let key = provider.key_provider.load_private_key(key).unwrap();
        Arc::new(CertifiedKey::new(vec![shown.der()], key))
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_client_cert_resolver(Arc::new(Shows(certified)));
    Arc::new(config)
}

/// A handshake and a word each way; what the server knows of the client.
fn meet(acceptor: &Acceptor, config: &Arc<ClientConfig>) -> Result<(Facts, bool), String> {
    let mut server = acceptor.accept().unwrap();
    let name = ServerName::try_from("relay.test").unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    client.writer().write_all(b"EHLO client.test\r\n").unwrap();
    let (mut plain, mut facts) = (Vec::new(), None);
    for _ in 0..10 {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        if server.receive(&to_server, &mut plain, &mut to_client)? == Progress::Established {
            facts = Some(server.facts());
            server.send(b"250 relay.test\r\n", &mut to_client).unwrap();
        }
        let mut bytes = &to_client[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets().map_err(|e| e.to_string())?;
        }
    }
    let mut heard = [0; 100];
    let length = client.reader().read(&mut heard).unwrap();
    assert_eq!((&plain[..], &heard[..length]), (&b"EHLO client.test\r\n"[..], &b"250 relay.test\r\n"[..]));
    let resumed = client.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    Ok((facts.unwrap(), resumed))
}

// --- the tests --------------------------------------------------------------------------------------------------------------

#[test]
fn a_client_whose_certificate_is_from_elsewhere_is_one_without_certificate() {
    let (authority, stranger) = (Holder::new("ours", None, NOW), Holder::new("theirs", None, NOW));
    let acceptor = acceptor(&authority);
    let known = Holder::new("ann", Some(&authority), NOW);
    let unknown = Holder::new("ann", Some(&stranger), NOW);
    let old = Holder::new("ann", Some(&authority), "2001-2002");
    for version in VERSIONS {
        let meets = |holder: Option<&Holder>| {
            let (facts, _) = meet(&acceptor, &client(version, holder.map(|h| (h, h)))).unwrap();
            assert!(facts.description.starts_with("TLSv1."));
            facts.fingerprint
        };
        assert_eq!(meets(Some(&known)), known.fingerprint());
        for other in [None, Some(&unknown), Some(&stranger), Some(&old)] {
            assert_eq!(meets(other), None, "{version:?}");
        }
    }
}

#[test]
fn who_does_not_have_the_key_of_its_certificate_is_refused() {
    let authority = Holder::new("ours", None, NOW);
    let acceptor = acceptor(&authority);
    let known = Holder::new("ann", Some(&authority), NOW);
    let thief = Holder::new("thief", None, NOW);
    for version in VERSIONS {
        for shown in [&known, &authority] {
            let met = meet(&acceptor, &client(version, Some((shown, &thief))));
            assert!(
                met.as_ref().is_err_and(|why| why.contains("BadSignature") || why.contains("signature")),
                "{met:?}"
            );
        }
    }
}

#[test]
fn a_session_that_is_resumed_is_judged_anew() {
    let authority = Holder::new("ours", None, NOW);
    let acceptor = acceptor(&authority);
    let known = Holder::new("ann", Some(&authority), NOW);
    let unknown = Holder::new("ann", None, NOW);
    for version in VERSIONS {
        for (holder, fingerprint) in [(&known, known.fingerprint()), (&unknown, None)] {
            let config = client(version, Some((holder, holder)));
            let (first, _) = meet(&acceptor, &config).unwrap();
            let (second, resumed) = meet(&acceptor, &config).unwrap();
            assert!(resumed, "{version:?}");
            assert_eq!([first.fingerprint, second.fingerprint], [fingerprint; 2], "{version:?}");
        }
    }
}
