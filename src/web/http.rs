//! What browsers and scrapers ask for. Only GET, but for a phone's time; every connection is bounded
//! in time and number.
use super::crowd::{Crowd, Guest};
use super::feed::{self, Feed, Seen, Viewer};
use super::{client, history, metrics, phone};
use crate::cli::svg;
use crate::config::parse_span;
use crate::os::heap;
use crate::units::Nanos;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue};
use hyper::rt::{Read, ReadBufCursor, Sleep, Timer, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, broadcast, mpsc};
use tokio::time::Instant;

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");
const LOOKS: &str = include_str!("page.css");
/// Nothing from elsewhere, and nothing written into the page itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'self'";
/// A browser that has left the Wi-Fi is given up after this.
const LOST: Duration = Duration::from_secs(30);
/// A comment in the stream, so that a lost browser is noticed.
const STILL_HERE: Duration = Duration::from_secs(15);

/// Serves for ever.
pub async fn serve(listener: TcpListener, feed: Rc<Feed>, phone: Option<phone::Desk>) {
    let crowd = Rc::new(Crowd::default());
    let drawings = Rc::new(Drawings::default());
    let phone = Rc::new(phone);
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // No descriptors left, most likely.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let Some(guest) = Crowd::enter(&crowd, from.ip()) else { continue };
        let lost = LOST.as_millis() as u32;
        let _ =
            nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::TcpUserTimeout, &lost);
        let _ = stream.set_nodelay(true);
        let (feed, drawings) = (Rc::clone(&feed), Rc::clone(&drawings));
        let phone = Rc::clone(&phone);
        tokio::task::spawn_local(async move {
            let guest = &guest;
            let answer = service_fn(|request| {
                guest.answered();
                let (feed, drawings) = (Rc::clone(&feed), Rc::clone(&drawings));
                let phone = Rc::clone(&phone);
                async move {
                    let desk = (*phone).as_ref();
                    let reply = match desk.filter(|_| request.method() == Method::POST) {
                        Some(desk) => desk.post(request, &feed, from.ip()).await,
                        None => answer(&request, &feed, &drawings, desk, guest).await,
                    };
                    Ok::<_, Infallible>(reply)
                }
            });
            let served = http1::Builder::new()
                .timer(Clock)
                .header_read_timeout(Duration::from_secs(20))
                .max_buf_size(8 << 10)
                .half_close(false)
                .serve_connection(Io(stream), answer);
            tokio::select! {
                // What a browser does wrong concerns nobody else.
                _ = served => {}
                () = guest.asked_to_leave() => {}
            }
        });
    }
}

async fn answer(
    request: &Request<Incoming>,
    feed: &Rc<Feed>,
    drawings: &Drawings,
    phone: Option<&phone::Desk>,
    guest: &Guest,
) -> Response<Body> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return whole(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n");
    }
    if !host_of(request).is_none_or(is_ours) {
        let sentence = "this page answers to its address and to local names only\n";
        return whole(StatusCode::MISDIRECTED_REQUEST, "text/plain", sentence);
    }
    let query = request.uri().query().unwrap_or_default();
    let ok = StatusCode::OK;
    match request.uri().path() {
        "/" | "/index.html" => whole(
            ok,
            "text/html; charset=utf-8",
            match phone {
                Some(_) => PAGE.replacen("<body ", "<body data-phone ", 1).into(),
                None => Bytes::from_static(PAGE.as_bytes()),
            },
        ),
        "/api/clock" if phone.is_some() => whole(ok, "application/json", phone::stamp()),
        "/page.css" => whole(ok, "text/css; charset=utf-8", LOOKS),
        "/page.js" => whole(ok, "text/javascript; charset=utf-8", SCRIPT),
        "/api/status" => json_of(feed.status().await),
        "/api/history" => drawings.past(feed, query, None).await,
        "/chart.svg" => {
            let width = value_of(query, "width").and_then(|w| w.parse().ok()).unwrap_or(960);
            drawings.past(feed, query, Some(width)).await
        }
        "/api/events" => {
            guest.stays();
            stream(feed.look())
        }
        "/metrics" => {
            whole(ok, metrics::CONTENT_TYPE, metrics::text(feed.status().await.ok().as_deref()))
        }
        _ => whole(StatusCode::NOT_FOUND, "text/plain", "there is no such page\n"),
    }
}

/// Whom a browser thinks to ask.
pub(super) fn host_of(request: &Request<Incoming>) -> Option<&str> {
    request.headers().get(HOST).map(|host| host.to_str().unwrap_or("?"))
}

/// Whether a browser that asks for `host` means this computer. A page from elsewhere may have its own
/// name lead here, and would then read ours: names of the wide world are not ours.
pub(super) fn is_ours(host: &str) -> bool {
    const LOCAL: [&str; 7] =
        [".local", ".localhost", ".lan", ".home", ".internal", ".home.arpa", ".localdomain"];
    let name = match host.strip_prefix('[') {
        Some(rest) => return rest.split(']').next().is_some_and(|a| a.parse::<Ipv6Addr>().is_ok()),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.parse::<Ipv4Addr>().is_ok()
        || (!name.is_empty() && !name.contains('.') && name.contains(|c: char| c.is_alphabetic()))
        || LOCAL.iter().any(|end| name.len() > end.len() && name.ends_with(end))
}

/// What was drawn of the past, for those who ask the same in the same second; and one at a time, so
/// that a crowd costs the daemon, and this program's memory, what one costs.
#[derive(Default)]
struct Drawings(Mutex<VecDeque<Drawing>>);

struct Drawing {
    since: Nanos,
    width: Option<u32>,
    at: (Instant, u64),
    text: Bytes,
}

impl Drawings {
    /// Widths a few pixels apart are one picture: the page scales it.
    const STEP: u32 = 16;
    const MOST: usize = 3;

    async fn past(&self, feed: &Feed, query: &str, width: Option<u32>) -> Response<Body> {
        let kind =
            if width.is_some() { "image/svg+xml; charset=utf-8" } else { "application/json" };
        let Some(since) = since(query) else {
            let error = json!({"v": crate::state::PROTOCOL, "reply": "error",
                "error": "since is no span up to 366 days", "hint": "/api/history?since=24h"});
            return whole(StatusCode::BAD_REQUEST, "application/json", error.to_string());
        };
        let width = width.map(|w| (w / Self::STEP * Self::STEP).max(Self::STEP));
        let mut kept = self.0.lock().await;
        let told = feed.told();
        kept.retain(|d| d.at.0.elapsed() < feed::FRESH && d.at.1 == told);
        if let Some(same) = kept.iter().find(|d| (d.since, d.width) == (since, width)) {
            return whole(StatusCode::OK, kind, same.text.clone());
        }
        let at = (Instant::now(), told);
        let text = match history::of(feed.places(), since).await {
            Ok(past) => Bytes::from(drawn(&past, width)),
            Err(e) => return json_of(Err(client::gone(&e).into())),
        };
        // A month is read in megabytes and drawn in kilobytes.
        heap::give_back();
        kept.truncate(Self::MOST - 1);
        kept.push_front(Drawing { since, width, at, text: text.clone() });
        whole(StatusCode::OK, kind, text)
    }
}

/// The past as a chart of a width, or as JSON.
fn drawn(past: &history::Past, width: Option<u32>) -> String {
    let Some(width) = width else {
        return json!({"v": crate::state::PROTOCOL, "reply": "history",
            "points": past.points, "marks": past.marks})
        .to_string();
    };
    let look =
        svg::Look { from_s: past.from_s, to_s: past.to_s, width, threshold_us: past.threshold_us };
    svg::chart(&past.points, &past.marks, look.fitted(&past.points))
}

fn value_of<'a>(query: &'a str, key: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

fn since(query: &str) -> Option<Nanos> {
    let longest = Nanos::from_secs(366 * 86_400);
    let span = parse_span(value_of(query, "since").unwrap_or("24h")).ok()?;
    (span > Nanos::ZERO && span <= longest).then_some(span)
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

pub(super) fn whole(
    status: StatusCode,
    kind: &'static str,
    text: impl Into<Bytes>,
) -> Response<Body> {
    response(status, kind, Body::Whole(Some(text.into())))
}

/// Server-sent events: `status` about once a second, `event` as things happen, `gone`.
fn stream(mut viewer: Viewer) -> Response<Body> {
    let (send, receive) = mpsc::channel(4);
    tokio::task::spawn_local(async move {
        if send.send(Bytes::from_static(b"retry: 2000\n\n")).await.is_err() {
            return;
        }
        loop {
            let text = match tokio::time::timeout(STILL_HERE, viewer.news.recv()).await {
                Ok(Ok(told)) => told.line,
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
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, parts)
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
    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Pause(Box::pin(tokio::time::sleep_until(deadline.into()))))
    }
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn the_page_answers_to_addresses_and_local_names_and_to_no_name_of_the_wide_world() {
        for ours in [
            "192.168.4.1:8460",
            "127.0.0.1",
            "[::1]:8460",
            "[fe80::1]",
            "localhost:8460",
            "range",
            "raspberrypi.local:8460",
            "RASPBERRYPI.LOCAL.",
            "pi.fritz.lan",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for theirs in [
            "evil.example:8460",
            "192.168.4.1.evil.example",
            "local.evil.example",
            "evillocal.com",
            "[evil.example]:8460",
            "",
            ":8460",
            ".local",
            "1.2.3.4.5",
            "?",
        ] {
            assert!(!is_ours(theirs), "{theirs}");
        }
    }
}
