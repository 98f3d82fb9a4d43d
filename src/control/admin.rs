//! The admin pages over HTTP: /metrics, /sources, /healthz and an index. Reads only; changes nothing.
//!
//! Bounded: so many connections at a time, each so long ([`crate::limits`]).

use super::metrics::Metrics;
use crate::limits::{ADMIN_CONNECTION_TIMEOUT, ADMIN_CONNECTIONS};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Both users of the lock are tasks of the control thread that hold it without awaiting.
pub type Shared = Arc<Mutex<Metrics>>;

/// Makes the text of a page, on a thread that may wait for files.
pub type Page = Box<dyn Fn() -> Result<String, String> + Send + Sync>;

/// The pages.
pub fn router(metrics: Shared, sources: Page) -> Router {
    let sources: Arc<Page> = Arc::new(sources);
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(scrape))
        .route("/healthz", get(healthz))
        .route("/sources", get(move || from_files(Arc::clone(&sources))))
        .with_state(metrics)
}

async fn from_files(page: Arc<Page>) -> (StatusCode, [(header::HeaderName, &'static str); 1], String) {
    let made = tokio::task::spawn_blocking(move || page()).await.unwrap_or_else(|error| Err(error.to_string()));
    match made {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], text),
        Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], format!("{why}\n")),
    }
}

async fn index() -> impl IntoResponse {
    let version = env!("CARGO_PKG_VERSION");
    let text = format!(
        "Ringpost {version}\n\n/metrics   counters, gauges and latencies for Prometheus\n/sources   source addresses: warm-ups, rests (JSON)\n/healthz   200 while mail is taken, 503 while draining\n"
    );
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text)
}

async fn scrape(State(metrics): State<Shared>) -> impl IntoResponse {
    let text = metrics.lock().unwrap_or_else(PoisonError::into_inner).text();
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

async fn healthz(State(metrics): State<Shared>) -> impl IntoResponse {
    let draining = metrics.lock().unwrap_or_else(PoisonError::into_inner).own().draining.load(Ordering::Relaxed) != 0;
    if draining { (StatusCode::SERVICE_UNAVAILABLE, "draining\n") } else { (StatusCode::OK, "ok\n") }
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, metrics: Shared, sources: Page) {
    let bounded = Bounded { listener, permits: Arc::new(Semaphore::new(ADMIN_CONNECTIONS)) };
    if let Err(error) = axum::serve(bounded, router(metrics, sources)).await {
        tracing::error!("admin HTTP has ended: {error}");
    }
}

/// A listener with at most [`ADMIN_CONNECTIONS`] connections open.
struct Bounded {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Timed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Timed, SocketAddr) {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("nobody closes the semaphore");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    return (Timed { stream, end: Box::pin(sleep(ADMIN_CONNECTION_TIMEOUT)), _permit: permit }, peer);
                }
                // Out of descriptors, most likely: the shards need them more.
                Err(_) => sleep(Duration::from_millis(500)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends after [`ADMIN_CONNECTION_TIMEOUT`] and then frees its place.
struct Timed {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Timed {
    fn expired(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(expired) = self.expired(context) {
            return Poll::Ready(expired);
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Err(expired)) = self.expired(context) {
            return Poll::Ready(Err(expired));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
