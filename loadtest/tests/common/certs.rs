//! An authority, the relay's certificate and a client's, made anew for each test and gone with its folder.
//!
//! In: a folder. Out: PEM files, keys readable by their owner only. The server's certificate is for relay.test and
//! localhost; it names a place for revocations that no one asks, since scanners count its absence as a weakness.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

const DAY: Duration = Duration::from_secs(86_400);

/// Paths of what was made.
pub struct Pki {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_certificate: PathBuf,
    pub client_key: PathBuf,
}

impl Pki {
    pub fn make(dir: &Path) -> Pki {
        Pki::make_for(dir, &["relay.test", "localhost"])
    }

    /// The server's certificate is for these.
    pub fn make_for(dir: &Path, names: &[&str]) -> Pki {
        fs::create_dir_all(dir).unwrap();
        let mut authority = params(&[], "the tests' authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let ca = write(dir, "ca.pem", 0o644, &authority.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(authority, key);

        let mut server = params(names, "relay.test");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.crl_distribution_points = vec![CrlDistributionPoint { uris: vec!["http://crl.test/".into()] }];
        let (certificate, key) = signed(dir, "relay", &server, &issuer);

        let mut client = params(&[], "alice");
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (client_certificate, client_key) = signed(dir, "client", &client, &issuer);
        Pki { ca, certificate, key, client_certificate, client_key }
    }
}

fn params(names: &[&str], common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|n| n.to_string()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
    // Scanners complain of less than 60 days to go, and of more than 398 in all (CA/Browser Forum).
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + 90 * DAY).into();
    params
}

fn signed(dir: &Path, name: &str, params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> (PathBuf, PathBuf) {
    let mut params = params.clone();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    (
        write(dir, &format!("{name}.pem"), 0o644, &certificate.pem()),
        write(dir, &format!("{name}.key"), 0o600, &key.serialize_pem()),
    )
}

fn write(dir: &Path, name: &str, mode: u32, text: &str) -> PathBuf {
    let path = dir.join(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path
}
