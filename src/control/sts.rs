//! MTA-STS policies (RFC 8461 §3.3): fetched by HTTPS from the policy host of a domain, and kept in files.
//!
//! In: questions of shards, with the addresses that their resolver found. Out: answers to them, each within
//! [`STS_FETCH_TIMEOUT`], and a file for each policy under `mta-sts` in the spool's folder, written whole or not at all. Lives
//! on the control thread. It refuses to follow redirects, to take another content type than `text/plain`, and a policy host
//! whose certificate no authority vouches for.

use crate::limits::{STS_FETCH_TIMEOUT, STS_FETCHES, STS_FETCHES_WAITING, STS_POLICY_BYTES};
use crate::shard::event::StsAsk;
use crate::shard::mailbox::StsNews;
use crate::starttls::report::ResultType;
use crate::starttls::sts::{Policy, Stored};
use crate::time::Wall;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt::Display;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// HTTPS; there is no other port for policies.
const PORT: u16 = 443;

/// Which shard is told what; and, of a failure, what a report calls it (RFC 8460 §4.3.2.2).
pub type Told = (u16, Arc<StsNews>, Option<ResultType>);

/// Why there is no policy.
type Failure = (ResultType, String);

/// See the module.
pub struct Fetcher {
    /// None: nothing is fetched, every question is answered at once.
    https: Option<Arc<ClientConfig>>,
    folder: PathBuf,
    slots: Arc<Semaphore>,
    tell: mpsc::Sender<Told>,
}

impl Fetcher {
    /// Policies are kept in `folder`; answers come out of the other end.
    pub fn new(https: Option<Arc<ClientConfig>>, folder: PathBuf) -> (Fetcher, mpsc::Receiver<Told>) {
        let (tell, told) = mpsc::channel(STS_FETCHES_WAITING);
        (Fetcher { https, folder, slots: Arc::new(Semaphore::new(STS_FETCHES)), tell }, told)
    }

    /// Fetches a policy and answers; at the bound of those that wait, nothing: the shard stops waiting by itself.
    pub fn ask(&self, ask: &StsAsk) {
        let Ok(permit) = self.tell.clone().try_reserve_owned() else { return };
        let StsAsk { shard, domain, id, addresses } = ask.clone();
        let (https, folder, slots) = (self.https.clone(), self.folder.clone(), Arc::clone(&self.slots));
        drop(tokio::spawn(async move {
            let whole = async {
                let _slot = slots.acquire().await.map_err(unfetched)?;
                let https = https.ok_or("there is no TLS").map_err(unfetched)?;
                fetch(https, &domain, &addresses).await
            };
            let fetched =
                timeout(STS_FETCH_TIMEOUT, whole).await.unwrap_or_else(|_| Err(unfetched("no answer in time")));
            let failure = fetched.as_ref().err().map(|(kind, _)| *kind);
            let fetched = match fetched {
                Ok(policy) => {
                    let stored = Arc::new(Stored { domain: domain.clone(), id, fetched: wall(), policy });
                    let kept = Arc::clone(&stored);
                    // It counts also where it cannot be kept.
                    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || keep(&folder, &kept)).await {
                        tracing::error!("MTA-STS policy of {domain}: cannot be kept: {error}");
                    }
                    Ok(stored)
                }
                Err((_, why)) => {
                    tracing::info!("MTA-STS policy of {domain}: {why}");
                    Err(why)
                }
            };
            permit.send((shard, Arc::new(StsNews { domain, fetched }), failure));
        }));
    }
}

fn unfetched(why: impl Display) -> Failure {
    (ResultType::StsPolicyFetchError, why.to_string())
}

async fn fetch(https: Arc<ClientConfig>, domain: &str, addresses: &[IpAddr]) -> Result<Policy, Failure> {
    let host = format!("mta-sts.{domain}");
    let mut stream = Err(unfetched("it has no address"));
    for address in addresses {
        let connected = TcpStream::connect(SocketAddr::new(*address, PORT)).await;
        stream = connected.map_err(|error| unfetched(format!("{address}: {error}")));
        if stream.is_ok() {
            break;
        }
    }
    let name = ServerName::try_from(host.clone()).map_err(|_| unfetched(format!("{host} is no host")))?;
    let tls = TlsConnector::from(https).connect(name, stream?).await;
    let stream = tls.map_err(|error| (ResultType::StsWebpkiInvalid, format!("TLS: {error}")))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unfetched)?;
    // Ends with the sender, or its own error, which the sender hears of.
    drop(tokio::spawn(connection));
    let request = Request::get("/.well-known/mta-sts.txt")
        .header(HOST, host)
        .header(USER_AGENT, concat!("ringpost/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(unfetched)?;
    let response = sender.send_request(request).await.map_err(unfetched)?;
    // RFC 8461 §3.3: redirects are not followed, a cache is not asked, and only 200 is an answer.
    if response.status() != StatusCode::OK {
        return Err(unfetched(format!("HTTP status {}", response.status())));
    }
    let invalid = |why: String| (ResultType::StsPolicyInvalid, why);
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/plain") {
        return Err(invalid(format!("its content type is \"{}\", not text/plain", kind.escape_debug())));
    }
    let body = Limited::new(response.into_body(), STS_POLICY_BYTES).collect().await.map_err(unfetched)?;
    let body = body.to_bytes();
    let policy = std::str::from_utf8(&body).map_err(|_| invalid("it is not text".to_owned()))?;
    Policy::parse(policy).map_err(|error| invalid(error.to_string()))
}

pub(super) fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Where policies are kept, in the spool's folder.
pub fn folder(spool: &Path) -> PathBuf {
    spool.join("mta-sts")
}

/// Writes a policy beside the old one, and then in its place.
fn keep(folder: &Path, stored: &Stored) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let (new, path) = (folder.join(format!(".{}", stored.domain)), folder.join(&*stored.domain));
    let mut file = fs::File::create(&new)?;
    file.write_all(stored.text().as_bytes())?;
    file.sync_data()?;
    fs::rename(&new, &path)?;
    fs::File::open(folder)?.sync_all()
}

/// Those that were kept and still hold; the others are removed.
pub fn load(folder: &Path) -> Vec<Arc<Stored>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::error!("{}: {error}; MTA-STS policies are fetched anew", folder.display());
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let text = fs::read_to_string(&path).unwrap_or_default();
        // What begins with a dot was being written when the process ended.
        match Stored::parse(name, &text).filter(|stored| stored.holds(wall()) && !name.starts_with('.')) {
            Some(stored) => found.push(Arc::new(stored)),
            None => drop(fs::remove_file(&path)),
        }
    }
    found
}
