//! What browsers and scrapers ask for. Only GET; every connection is bounded in time and number.
use super::feed::{Feed, News, Seen, Viewer};
use super::{client, history, metrics};
use crate::cli::svg;
use crate::config::parse_span;
use crate::units::Nanos;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::rt::{Read, ReadBufCursor, Sleep, Timer, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");
const LOOKS: &str = include_str!("page.css");
/// Nothing from elsewhere, and nothing written into the page itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'self'";
/// Connections at a time; the oldest are not disturbed, the newest are closed.
const MOST_CONNECTIONS: usize = 160;
/// A browser that has left the Wi-Fi is given up after this.
const LOST: Duration = Duration::from_secs(30);
/// A comment in the stream, so that a lost browser is noticed.
const STILL_HERE: Duration = Duration::from_secs(15);

/// Serves for ever.
pub async fn serve(listener: TcpListener, feed: Rc<Feed>) {
    let open = Rc::new(Cell::new(0_usize));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptors left, most likely.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        if open.get() >= MOST_CONNECTIONS {
            continue;
        }
        let lost = LOST.as_millis() as u32;
        let _ =
            nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::TcpUserTimeout, &lost);
        let _ = stream.set_nodelay(true);
        let (feed, open) = (Rc::clone(&feed), Rc::clone(&open));
        open.set(open.get() + 1);
        tokio::task::spawn_local(async move {
            let answer = service_fn(|request| {
                let feed = Rc::clone(&feed);
                async move { Ok::<_, Infallible>(answer(&request, &feed).await) }
            });
            let served = http1::Builder::new()
                .timer(Clock)
                .header_read_timeout(Duration::from_secs(20))
                .max_buf_size(16 << 10)
                .half_close(false)
                .serve_connection(Io(stream), answer);
            // What a browser does wrong concerns nobody else.
            let _ = served.await;
            open.set(open.get() - 1);
        });
    }
}

async fn answer(request: &Request<Incoming>, feed: &Rc<Feed>) -> Response<Body> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return whole(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n");
    }
    let query = request.uri().query().unwrap_or_default();
    let ok = StatusCode::OK;
    match request.uri().path() {
        "/" | "/index.html" => whole(ok, "text/html; charset=utf-8", PAGE),
        "/page.css" => whole(ok, "text/css; charset=utf-8", LOOKS),
        "/page.js" => whole(ok, "text/javascript; charset=utf-8", SCRIPT),
        "/api/status" => json_of(feed.status().await),
        "/api/history" => match past(feed, query).await {
            Ok(past) => {
                let value = json!({"v": crate::state::PROTOCOL, "reply": "history",
                    "points": past.points, "marks": past.marks});
                whole(ok, "application/json", value.to_string())
            }
            Err(response) => response,
        },
        "/chart.svg" => match past(feed, query).await {
            Ok(past) => {
                let width = value_of(query, "width").and_then(|w| w.parse().ok()).unwrap_or(960);
                let look = svg::Look {
                    from_s: past.from_s,
                    to_s: past.to_s,
                    width,
                    threshold_us: past.threshold_us,
                };
                let drawn = svg::chart(&past.points, &past.marks, look.fitted(&past.points));
                whole(ok, "image/svg+xml; charset=utf-8", drawn)
            }
            Err(response) => response,
        },
        "/api/events" => stream(feed.look()),
        "/metrics" => {
            whole(ok, metrics::CONTENT_TYPE, metrics::text(feed.status().await.ok().as_deref()))
        }
        _ => whole(StatusCode::NOT_FOUND, "text/plain", "there is no such page\n"),
    }
}

fn value_of<'a>(query: &'a str, key: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

async fn past(feed: &Feed, query: &str) -> Result<history::Past, Response<Body>> {
    let longest = Nanos::from_secs(366 * 86_400);
    let since = value_of(query, "since").unwrap_or("24h");
    let since = match parse_span(since) {
        Ok(span) if span > Nanos::ZERO && span <= longest => span,
        _ => {
            let error = json!({"v": crate::state::PROTOCOL, "reply": "error",
                "error": "since is no span up to 366 days", "hint": "/api/history?since=24h"});
            return Err(whole(StatusCode::BAD_REQUEST, "application/json", error.to_string()));
        }
    };
    history::of(feed.places(), since).await.map_err(|e| json_of(Err(client::gone(&e).into())))
}

fn json_of(seen: Seen) -> Response<Body> {
    match seen {
        Ok(text) => whole(StatusCode::OK, "application/json", text.to_string()),
        Err(text) => whole(StatusCode::SERVICE_UNAVAILABLE, "application/json", text.to_string()),
    }
}

fn response(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}

fn whole(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    response(status, kind, Body::Whole(Some(text.into())))
}

/// Server-sent events: `status` about once a second, `event` as things happen, `gone`.
fn stream(mut viewer: Viewer) -> Response<Body> {
    let (send, receive) = mpsc::channel(16);
    tokio::task::spawn_local(async move {
        let line =
            |kind: &str, data: &Arc<str>| Bytes::from(format!("event: {kind}\ndata: {data}\n\n"));
        if send.send(Bytes::from_static(b"retry: 2000\n\n")).await.is_err() {
            return;
        }
        loop {
            let text = match tokio::time::timeout(STILL_HERE, viewer.news.recv()).await {
                Ok(Ok(News::Status(data))) => line("status", &data),
                Ok(Ok(News::Event(data))) => line("event", &data),
                Ok(Ok(News::Gone(data))) => line("gone", &data),
                // A browser that cannot follow misses some, and the next status says all again.
                Ok(Err(broadcast::error::RecvError::Lagged(_))) => continue,
                Ok(Err(broadcast::error::RecvError::Closed)) => return,
                Err(_) => Bytes::from_static(b": still here\n\n"),
            };
            let sent = tokio::time::timeout(LOST, send.send(text)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    });
    response(StatusCode::OK, "text/event-stream", Body::Stream(receive))
}

/// A text, or a stream without an end.
#[derive(Debug)]
pub enum Body {
    /// All at once.
    Whole(Option<Bytes>),
    /// As it comes.
    Stream(mpsc::Receiver<Bytes>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match self.get_mut() {
            Self::Whole(text) => text.take(),
            Self::Stream(stream) => ready!(stream.poll_recv(cx)),
        };
        Poll::Ready(data.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            Self::Stream(_) => SizeHint::new(),
        }
    }
}

/// tokio's stream as hyper wants it.
struct Io(TcpStream);

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut some = [0; 2_048];
        let room = buffer.remaining().min(some.len());
        let mut read = ReadBuf::new(&mut some[..room]);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut read))?;
        buffer.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// tokio's sleep as hyper wants it.
#[derive(Clone, Copy)]
struct Clock;
struct Pause(Pin<Box<tokio::time::Sleep>>);

impl Future for Pause {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}
impl Sleep for Pause {}
impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Pause(Box::pin(tokio::time::sleep(duration))))
    }
    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Pause(Box::pin(tokio::time::sleep_until(deadline.into()))))
    }
}
