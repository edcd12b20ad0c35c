//! What is published to a broker, if one is configured. A broker that is down, restarted or slow
//! costs nothing but a bounded queue: of the status only the newest is kept, events wait until the
//! broker has confirmed them, and one may come twice rather than never.
use super::feed::{Feed, News, Told};
use crate::config::Mqtt;
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, LastWill, MqttOptions, QoS,
};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Read;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::Instant;

/// Events that wait; beyond that the oldest are dropped, and the next one says how many.
const LONGEST_QUEUE: usize = 512;
/// A status that says the same is published again after this.
const STATUS_EVERY: Duration = Duration::from_secs(29);
/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A broker that is silent for so long is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// The longest message: a status with 16 servers is 10 kB.
const LONGEST_MESSAGE: usize = 256 << 10;

/// The topics, under the configured prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// The status, retained.
    pub status: String,
    /// `alert` and `alert_cleared`.
    pub alerts: String,
    /// Every event of a timer.
    pub timer_events: String,
    /// The timers, retained; the last will says `"online":false`.
    pub timer_status: String,
}

impl Topics {
    /// Under `prefix`.
    #[must_use]
    pub fn under(prefix: &str) -> Self {
        let topic = |rest: &str| format!("{prefix}/{rest}");
        Self {
            status: topic("timesync/status"),
            alerts: topic("timesync/alerts"),
            timer_events: topic("timer/events"),
            timer_status: topic("timer/status"),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Message {
    topic: String,
    text: String,
    retained: bool,
}

/// What waits to be published.
#[derive(Debug)]
struct Outbox {
    topics: Topics,
    /// Retained ones, newest only; each at most once in the line.
    status: Option<Message>,
    timers: Option<Message>,
    events: VecDeque<Message>,
    dropped: u64,
    /// What the broker has not confirmed yet.
    under_way: Option<Message>,
    connected: bool,
    /// What was said last, so that it is said again to a broker that has forgotten it.
    last_status: Option<(String, Instant, Message)>,
    last_timers: Option<(String, Instant, Message)>,
}

impl Outbox {
    fn new(topics: Topics) -> Self {
        Self {
            topics,
            status: None,
            timers: None,
            events: VecDeque::new(),
            dropped: 0,
            under_way: None,
            connected: false,
            last_status: None,
            last_timers: None,
        }
    }

    /// A status, or the protocol's error that there is none.
    fn status(&mut self, text: &str, now: Instant) {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        // What a person would call a change; figures alone wait for their turn.
        let keys = ["reply", "state", "verified", "quality", "alert", "locks", "tone", "steering"];
        let key: String = keys
            .map(|key| match &value[key] {
                Value::Object(_) => "on".into(),
                Value::Array(list) => list.len().to_string(),
                other => other.to_string(),
            })
            .join(" ");
        let known = self.last_status.as_ref();
        if known.is_none_or(|(k, at, _)| *k != key || now.duration_since(*at) >= STATUS_EVERY) {
            let topic = self.topics.status.clone();
            let message = Message { topic, text: text.to_owned(), retained: true };
            self.last_status = Some((key, now, message.clone()));
            self.status = Some(message);
        }
        let list = value["timers"].as_array().cloned().unwrap_or_default();
        let online = value["reply"] == "status";
        let keys = ["timer_id", "name", "connected", "state", "string_number", "calibrated"];
        let mut key = online.to_string();
        for timer in &list {
            key.extend(keys.map(|key| format!(" {}", timer[key])));
        }
        let known = self.last_timers.as_ref();
        if known.is_none_or(|(k, at, _)| *k != key || now.duration_since(*at) >= STATUS_EVERY) {
            let text = json!({"v": crate::state::PROTOCOL, "online": online, "timers": list});
            let topic = self.topics.timer_status.clone();
            let message = Message { topic, text: text.to_string(), retained: true };
            self.last_timers = Some((key, now, message.clone()));
            self.timers = Some(message);
        }
    }

    /// An event of the daemon; whether the status has probably changed with it.
    fn event(&mut self, text: &str) -> bool {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let kind = value["event"].as_str().unwrap_or_default();
        let topic = match kind {
            "alert" | "alert_cleared" => &self.topics.alerts,
            "timer" => &self.topics.timer_events,
            _ => return kind != "sync",
        };
        if self.events.len() == LONGEST_QUEUE {
            self.events.pop_front();
            self.dropped += 1;
        }
        let text = match (self.dropped, value) {
            (0, _) => text.to_owned(),
            (dropped, mut value) => {
                value["dropped_before"] = dropped.into();
                self.dropped = 0;
                value.to_string()
            }
        };
        self.events.push_back(Message { topic: topic.clone(), text, retained: false });
        true
    }

    fn online(&mut self) {
        self.connected = true;
        self.status = self.last_status.as_ref().map(|(_, _, message)| message.clone());
        self.timers = self.last_timers.as_ref().map(|(_, _, message)| message.clone());
    }

    /// The connection is gone: what was not confirmed goes again, in its place.
    fn offline(&mut self) {
        self.connected = false;
        if let Some(message) = self.under_way.take().filter(|m| !m.retained) {
            self.events.push_front(message);
        }
    }

    fn next(&mut self) -> Option<&Message> {
        if !self.connected || self.under_way.is_some() {
            return None;
        }
        let next = self.events.pop_front();
        let next = next.or_else(|| self.timers.take()).or_else(|| self.status.take());
        self.under_way = next;
        self.under_way.as_ref()
    }
}

/// Gives the broker what waits, one at a time.
fn pump(outbox: &RefCell<Outbox>, client: &AsyncClient) {
    let mut outbox = outbox.borrow_mut();
    let Some(next) = outbox.next() else { return };
    let (topic, text) = (next.topic.clone(), next.text.clone());
    if client.try_publish(topic, QoS::AtLeastOnce, next.retained, text).is_err() {
        outbox.offline();
        outbox.connected = true;
    }
}

/// Publishes for ever.
///
/// # Errors
/// A sentence when the password cannot be read; a broker that cannot be reached is no error.
pub fn start(config: &Mqtt, feed: &Rc<Feed>) -> Result<(), String> {
    let topics = Topics::under(&config.prefix);
    let id = format!("leadville-timesync-{:08x}", host_number());
    let mut options = MqttOptions::new(id, config.broker.host.clone(), config.broker.port);
    options.set_keep_alive(KEEP_ALIVE).set_clean_session(true);
    options.set_max_packet_size(4_096, LONGEST_MESSAGE).set_inflight(2);
    let will = json!({"v": crate::state::PROTOCOL, "online": false, "timers": []}).to_string();
    options.set_last_will(LastWill::new(&topics.timer_status, will, QoS::AtLeastOnce, true));
    if !config.user.is_empty() {
        options.set_credentials(config.user.clone(), password(config)?);
    }
    let (client, broker) = AsyncClient::new(options, 4);
    let outbox = Rc::new(RefCell::new(Outbox::new(topics)));
    let news = feed.listen();
    tokio::task::spawn_local(collect(Rc::clone(feed), news, Rc::clone(&outbox), client.clone()));
    let name = format!("{}:{}", config.broker.host, config.broker.port);
    tokio::task::spawn_local(deliver(broker, outbox, client, name));
    Ok(())
}

fn password(config: &Mqtt) -> Result<String, String> {
    if config.password_file.as_os_str().is_empty() {
        return Ok(String::new());
    }
    let path = config.password_file.display();
    let mut text = String::new();
    let read = std::fs::File::open(&config.password_file)
        .and_then(|file| file.take(4_096).read_to_string(&mut text));
    read.map_err(|e| format!("the broker's password cannot be read from {path}: {e}"))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Two computers of one range must not push each other off the broker; one computer keeps its name.
fn host_number() -> u32 {
    let known = ["/etc/machine-id", "/etc/hostname"].iter().find_map(|f| std::fs::read(f).ok());
    let bytes = known.unwrap_or_default();
    bytes.iter().fold(0x811c_9dc5, |hash: u32, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

async fn collect(
    feed: Rc<Feed>,
    mut news: broadcast::Receiver<Told>,
    outbox: Rc<RefCell<Outbox>>,
    client: AsyncClient,
) {
    loop {
        match news.recv().await.map(|told| told.news) {
            Ok(News::Status(text) | News::Gone(text)) => {
                outbox.borrow_mut().status(&text, Instant::now());
            }
            Ok(News::Event(text)) => {
                if outbox.borrow_mut().event(&text) {
                    // Many events at once are one question: see the feed.
                    feed.ask_soon();
                }
            }
            Err(broadcast::error::RecvError::Lagged(n)) => outbox.borrow_mut().dropped += n,
            Err(broadcast::error::RecvError::Closed) => return,
        }
        pump(&outbox, &client);
    }
}

async fn deliver(
    mut broker: EventLoop,
    outbox: Rc<RefCell<Outbox>>,
    client: AsyncClient,
    name: String,
) {
    let mut pause = PAUSES.0;
    let mut complained = false;
    loop {
        match broker.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                eprintln!("publishing to the broker at {name}");
                (pause, complained) = (PAUSES.0, false);
                outbox.borrow_mut().online();
            }
            Ok(Event::Incoming(Incoming::PubAck(_))) => outbox.borrow_mut().under_way = None,
            Ok(_) => continue,
            Err(error) => {
                outbox.borrow_mut().offline();
                if !complained {
                    eprintln!("the broker at {name} {}; trying on", why(&error));
                    complained = true;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
                continue;
            }
        }
        pump(&outbox, &client);
    }
}

fn why(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(code) => format!("refuses us ({code:?})"),
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => "is silent".into(),
        ConnectionError::Io(e) => format!("cannot be reached: {e}"),
        other => format!("is lost: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox() -> Outbox {
        Outbox { connected: true, ..Outbox::new(Topics::under("range")) }
    }

    fn text_of(message: Option<&Message>) -> (String, String) {
        message.map(|m| (m.topic.clone(), m.text.clone())).unwrap_or_default()
    }

    #[test]
    fn what_the_broker_did_not_confirm_goes_again_in_its_place() {
        let mut o = outbox();
        for n in 1..=2 {
            assert!(o.event(&format!("{{\"event\":\"timer\",\"n\":{n}}}")));
        }
        assert!(text_of(o.next()).1.contains("\"n\":1"));
        assert_eq!(o.next(), None, "one at a time");
        o.offline();
        assert_eq!(o.next(), None, "nobody listens");
        o.online();
        for n in 1..=2 {
            let (topic, text) = text_of(o.next());
            assert!(text.contains(&format!("\"n\":{n}")), "{text}");
            assert_eq!(topic, "range/timer/events");
            o.under_way = None;
        }
    }

    #[test]
    fn of_the_status_the_newest_is_kept_and_figures_alone_wait() {
        let mut o = outbox();
        let start = Instant::now();
        let status = |offset: u32, quality: &str| {
            format!(
                "{{\"reply\":\"status\",\"quality\":\"{quality}\",\"offset_us\":{offset},\"timers\":[]}}"
            )
        };
        o.status(&status(1, "good"), start);
        assert_eq!(text_of(o.next()).0, "range/timer/status");
        o.under_way = None;
        assert!(text_of(o.next()).1.contains("\"offset_us\":1"));
        o.under_way = None;
        o.status(&status(2, "good"), start + Duration::from_secs(5));
        assert_eq!(o.next(), None, "the same in other figures");
        o.status(&status(3, "poor"), start + Duration::from_secs(6));
        o.status(&status(4, "good"), start + Duration::from_secs(7));
        assert!(text_of(o.next()).1.contains("\"offset_us\":4"));
        o.under_way = None;
        assert_eq!(o.next(), None);
        o.status(&status(5, "good"), start + Duration::from_secs(40));
        assert_eq!(text_of(o.next()).0, "range/timer/status");
        o.under_way = None;
        assert!(text_of(o.next()).1.contains("\"offset_us\":5"), "now and then all the same");
    }

    #[test]
    fn a_queue_that_is_full_loses_the_oldest_and_says_so() {
        let mut o = Outbox { connected: false, ..outbox() };
        for n in 0..LONGEST_QUEUE + 2 {
            o.event(&format!("{{\"event\":\"alert\",\"n\":{n}}}"));
        }
        assert_eq!(o.events.len(), LONGEST_QUEUE);
        assert!(o.events[0].text.contains("\"n\":2"));
        assert!(o.events.back().is_some_and(|m| m.text.contains("\"dropped_before\":1")));
        assert!(!o.event("{\"event\":\"sync\"}") && o.event("{\"event\":\"lock\"}"));
    }
}
