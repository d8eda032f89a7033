//! HTTP: metrics, health, readiness. A small tokio runtime on a thread of its own; the pipelines never wait for it.
//!
//! `/metrics` is Prometheus text; `/health` is 200 while a pipeline is alive; `/ready` is 200 when every pipeline has its tasks, and its
//! body says which one waits for what.

mod lag;
mod metrics;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

pub use lag::Collector;
pub use metrics::Metrics;
pub use status::{Life, Pipelines};

use crate::error::{Error, Result};

/// What the requests are answered from.
#[derive(Clone)]
struct Shared {
    metrics: Metrics,
    pipelines: Arc<Pipelines>,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Listens at once, so that a port in use is refused before anything starts.
    pub fn start(address: &str, metrics: Metrics, pipelines: Arc<Pipelines>) -> Result<Server> {
        let refused = |what: &str, e: std::io::Error| {
            Error::config(format!("[serve] address \"{address}\": {what}: {e}"))
                .hint("give another address to [serve] address (TIDEMILL_SERVE_ADDRESS), or \"\" for no HTTP")
        };
        let listener = std::net::TcpListener::bind(address).map_err(|e| refused("it can't be listened on", e))?;
        listener.set_nonblocking(true).map_err(|e| refused("it can't be used", e))?;
        let local = listener.local_addr().map_err(|e| refused("it has no address", e))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::failed(format!("the HTTP server's runtime can't start: {e}")))?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let router = router(Shared { metrics, pipelines });
        let thread = std::thread::Builder::new().name("serve".into()).spawn(move || {
            let served: std::io::Result<()> = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                // Ends when the sender is dropped; open connections are not waited for.
                tokio::select! {
                    served = axum::serve(listener, router).into_future() => served,
                    _ = stopped => Ok(()),
                }
            });
            if let Err(error) = served {
                tracing::error!(%error, "the HTTP server ended");
            }
        });
        let thread = thread.map_err(|e| Error::failed(format!("the HTTP server's thread can't start: {e}")))?;
        Ok(Server { address: local, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens; the port is known only here when port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .with_state(shared)
}

async fn index() -> &'static str {
    "tidemill: /metrics /health /ready\n"
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let text = shared.metrics.render(&shared.pipelines);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn health(State(shared): State<Shared>) -> Response {
    answer(shared.pipelines.healthy())
}

async fn ready(State(shared): State<Shared>) -> Response {
    answer(shared.pipelines.ready())
}

fn answer((good, body): (bool, serde_json::Value)) -> Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Mutex;

    use super::*;
    use crate::task::run::Progress;

    fn fetch(server: &Server, path: &str) -> (u16, String) {
        let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_string())
    }

    #[test]
    fn readiness_follows_the_pipelines_and_names_who_waits() {
        let pipelines = Arc::new(Pipelines::default());
        let server = Server::start("127.0.0.1:0", Metrics::local(), pipelines.clone()).unwrap();
        assert_eq!(fetch(&server, "/ready").0, 503, "no pipeline yet");
        let progress = Arc::new(Mutex::new(Progress::default()));
        pipelines.watch("revenue", progress.clone());
        let (status, body) = fetch(&server, "/ready");
        assert_eq!(status, 503);
        assert!(body.contains("revenue") && body.contains("waits"), "{body}");
        assert_eq!(fetch(&server, "/health").0, 200);
        progress.lock().unwrap().ready = true;
        assert_eq!(fetch(&server, "/ready").0, 200);
        progress.lock().unwrap().waiting_for_schemas = 2;
        let (_, body) = fetch(&server, "/ready");
        assert!(body.contains("2"), "{body}");
        pipelines.set("revenue", Life::Failed("boom".into()));
        let (status, body) = fetch(&server, "/ready");
        assert_eq!(status, 503);
        assert!(body.contains("boom"), "{body}");
        assert_eq!(fetch(&server, "/health").0, 503, "none is alive");
        assert_eq!(fetch(&server, "/nothing").0, 404);
    }

    #[test]
    fn a_port_in_use_is_refused_with_its_address() {
        let first = Server::start("127.0.0.1:0", Metrics::local(), Arc::default()).unwrap();
        let address = first.address().to_string();
        let error = Server::start(&address, Metrics::local(), Arc::default()).unwrap_err();
        assert!(error.message.contains(&address) && error.hint.is_some());
        drop(first);
        Server::start(&address, Metrics::local(), Arc::default()).expect("a dropped server frees its port");
    }
}
