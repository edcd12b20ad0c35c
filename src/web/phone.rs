//! A phone's time for a range without servers: the browser asks for stamps of this machine's
//! clock, works out what its own showed then, and sends that back once a person has said yes.
//!
//! Off unless it is configured. What is sent must come from the page itself, small, as JSON, and
//! not often; whether it is taken is the daemon's to say.
use super::client;
use super::feed::Feed;
use super::http::{Body, host_of, is_ours, whole};
use crate::engine::serve::Limiter;
use crate::os::clock;
use crate::state::PROTOCOL;
use crate::units::UtcTime;
use hyper::body::{Body as HttpBody, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

/// What a phone's clock is worth, s. Taken, not measured: Android's time detector leaves the clock
/// alone while a suggestion is less than 2 s away (AOSP, `ro.sys.time_detector_update_diff`).
const WORTH: f64 = 2.0;
/// A longer round trip says nothing.
const LONGEST_DELAY_MS: f64 = 10_000.0;
/// Of a request's body.
const MOST_BYTES: usize = 512;
const PATIENCE: Duration = Duration::from_secs(5);
/// From one address.
const PER_MINUTE: u32 = 10;

/// Takes what phones say.
#[derive(Debug)]
pub struct Desk {
    limiter: RefCell<Limiter>,
}

impl Default for Desk {
    fn default() -> Self {
        let secret = getrandom::u64().unwrap_or_else(|_| clock::raw_now().as_nanos() as u64);
        Self { limiter: RefCell::new(Limiter::new(PER_MINUTE, secret)) }
    }
}

/// What a phone showed at one instant of this machine.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    /// UTC by the phone, ms since 1970 …
    utc_ms: f64,
    /// … in the middle of an exchange, of which this is this machine's stamp …
    monotonic_ns: i64,
    /// … and which took so long, as the phone saw it.
    delay_ms: f64,
    /// A person has said yes. Else only what would be done is told.
    apply: bool,
}

/// The monotonic clock as it is now.
pub(super) fn stamp() -> String {
    let now = clock::monotonic_now();
    json!({"v": PROTOCOL, "reply": "clock", "monotonic_ns": now}).to_string()
}

fn refused(status: StatusCode, error: &str, hint: Option<&str>) -> Response<Body> {
    let text = json!({"v": PROTOCOL, "reply": "error", "error": error, "hint": hint});
    whole(status, "application/json", text.to_string())
}

/// Whether the page itself sends this, and not one from elsewhere through its visitor's browser.
fn from_the_page(headers: &HeaderMap, host: Option<&str>) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let Some(host) = host.filter(|host| is_ours(host)) else { return false };
    let origin = text(ORIGIN.as_str()).and_then(|origin| origin.split_once("://"));
    let own = origin.is_some_and(|(scheme, name)| {
        matches!(scheme, "http" | "https") && name.eq_ignore_ascii_case(host)
    });
    own && text("sec-fetch-site").is_none_or(|site| site == "same-origin")
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// The daemon's request for what a phone said.
fn request(body: &[u8]) -> Result<(Value, bool), &'static str> {
    let said: Said = serde_json::from_slice(body)
        .map_err(|_| "utc_ms, monotonic_ns, delay_ms and apply are wanted, and nothing else")?;
    if !(0.0..=LONGEST_DELAY_MS).contains(&said.delay_ms) {
        return Err("delay_ms is a round trip of up to ten seconds");
    }
    // To the year 2200; the daemon's own window of dates is narrower.
    if !(0.0..7.3e12).contains(&said.utc_ms) {
        return Err("utc_ms counts milliseconds since 1970");
    }
    let utc = UtcTime::from_nanos((said.utc_ms * 1e3).round() as i64 * 1_000);
    let uncertainty = WORTH + said.delay_ms * 0.5e-3;
    let request = json!({"do": "set-time", "how": "phone", "utc": utc.iso(9),
        "uncertainty_s": uncertainty, "monotonic_ns": said.monotonic_ns, "try": !said.apply});
    Ok((request, said.apply))
}

/// The body, if it is short and comes soon.
async fn read(mut body: Incoming) -> Result<Vec<u8>, StatusCode> {
    if body.size_hint().lower() > MOST_BYTES as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut all = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        all.extend_from_slice(&frame.into_data().unwrap_or_else(|_| Bytes::new()));
        if all.len() > MOST_BYTES {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
    }
    Ok(all)
}

impl Desk {
    /// Answers what was posted.
    pub(super) async fn post(
        &self,
        request: Request<Incoming>,
        feed: &Feed,
        from: IpAddr,
    ) -> Response<Body> {
        if request.uri().path() != "/api/set-time" {
            return refused(StatusCode::METHOD_NOT_ALLOWED, "only GET there", None);
        }
        if !from_the_page(request.headers(), host_of(&request)) {
            return refused(StatusCode::FORBIDDEN, "only the page itself may send this", None);
        }
        if !is_json(request.headers()) {
            let sentence = "the content type must be application/json";
            return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence, None);
        }
        if !self.limiter.borrow_mut().allows(from, clock::raw_now()) {
            let sentence = "that was asked too often; wait a minute";
            let mut response = refused(StatusCode::TOO_MANY_REQUESTS, sentence, None);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("60"));
            return response;
        }
        let body = match tokio::time::timeout(PATIENCE, read(request.into_body())).await {
            Ok(Ok(body)) => body,
            Ok(Err(status)) => return refused(status, "too long, or broken off", None),
            Err(_) => return refused(StatusCode::REQUEST_TIMEOUT, "the request never ends", None),
        };
        self.pass_on(&body, feed, from).await
    }

    async fn pass_on(&self, body: &[u8], feed: &Feed, from: IpAddr) -> Response<Body> {
        let (request, apply) = match self::request(body) {
            Ok(request) => request,
            Err(sentence) => return refused(StatusCode::BAD_REQUEST, sentence, None),
        };
        let reply = match client::ask(feed.places(), &request).await {
            Ok(reply) => reply,
            Err(e) => {
                let text = client::gone(&e);
                return whole(StatusCode::SERVICE_UNAVAILABLE, "application/json", text);
            }
        };
        let done = serde_json::from_str::<Value>(&reply)
            .is_ok_and(|reply| reply.get("reply").and_then(Value::as_str) != Some("error"));
        if apply {
            let word = if done { "taken" } else { "refused" };
            println!("the time of a phone at {} is {word}", from.to_canonical());
        }
        let status = if done { StatusCode::OK } else { StatusCode::CONFLICT };
        whole(status, "application/json", reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair =
            |(name, value): &(&'static str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_the_page_itself_may_send_a_time() {
        let ours = Some("192.168.4.1:8460");
        let own = ("origin", "http://192.168.4.1:8460");
        assert!(from_the_page(&headers(&[own]), ours));
        assert!(from_the_page(&headers(&[own, ("sec-fetch-site", "same-origin")]), ours));
        assert!(from_the_page(&headers(&[("origin", "https://Range.local")]), Some("range.local")));
        for (theirs, host) in [
            (headers(&[]), ours),
            (headers(&[("origin", "null")]), ours),
            (headers(&[("origin", "http://192.168.4.1")]), ours),
            (headers(&[("origin", "http://evil.example")]), ours),
            (headers(&[("origin", "http://192.168.4.1:8460.evil.example")]), ours),
            (headers(&[("origin", "file://192.168.4.1:8460")]), ours),
            (headers(&[own, ("sec-fetch-site", "cross-site")]), ours),
            (headers(&[own, ("sec-fetch-site", "same-site")]), ours),
            (headers(&[("origin", "http://evil.example")]), Some("evil.example")),
            (headers(&[own]), None),
        ] {
            assert!(!from_the_page(&theirs, host), "{theirs:?} to {host:?}");
        }
        assert!(is_json(&headers(&[("content-type", "application/json; charset=utf-8")])));
        assert!(!is_json(&headers(&[("content-type", "text/plain")])) && !is_json(&headers(&[])));
    }

    #[test]
    fn what_a_phone_says_is_worth_two_seconds_and_half_the_round_trip() {
        let body = br#"{"utc_ms":1800000000000.25,"monotonic_ns":7,"delay_ms":60,"apply":false}"#;
        let (asked, apply) = request(body).unwrap();
        assert!(!apply);
        assert_eq!(asked["try"], true);
        assert_eq!(asked["how"], "phone");
        assert_eq!(asked["utc"], "2027-01-15T08:00:00.000250000Z");
        assert_eq!(asked["monotonic_ns"], 7);
        assert!((asked["uncertainty_s"].as_f64().unwrap() - 2.03).abs() < 1e-9);
        for nonsense in [
            "",
            "{}",
            r#"{"utc_ms":1,"monotonic_ns":7,"delay_ms":-1,"apply":true}"#,
            r#"{"utc_ms":1,"monotonic_ns":7,"delay_ms":10001,"apply":true}"#,
            r#"{"utc_ms":1e300,"monotonic_ns":7,"delay_ms":1,"apply":true}"#,
            r#"{"utc_ms":1,"monotonic_ns":7,"delay_ms":1,"apply":"yes"}"#,
            r#"{"utc_ms":1,"monotonic_ns":7,"delay_ms":1,"apply":true,"how":"set-time"}"#,
        ] {
            assert!(request(nonsense.as_bytes()).is_err(), "{nonsense}");
        }
    }
}
