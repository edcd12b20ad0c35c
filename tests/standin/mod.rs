//! A stand-in for bluetoothd on a bus of the test's own: one adapter, one timer, and calls it never answers.
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use zbus::export::futures_core::Stream as _;
use zbus::message::{Header, Type};
use zbus::{Connection, Message, MessageStream, ObjectPath, Variant};

pub const ADDRESS: &str = "60:09:C3:00:DC:1A";
const ROOT: &str = "/org/bluez/hci0";
const DEVICE: &str = "/org/bluez/hci0/dev_60_09_C3_00_DC_1A";
const NOTIFY: &str = "/org/bluez/hci0/dev_60_09_C3_00_DC_1A/service0010/char0011";
const WRITE: &str = "/org/bluez/hci0/dev_60_09_C3_00_DC_1A/service0010/char0013";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Names of properties with their values.
type Map = HashMap<&'static str, Variant<'static>>;

/// What it is and what was asked of it.
pub struct State {
    /// There is an adapter.
    pub adapter: bool,
    /// The timer can be connected to.
    pub in_reach: bool,
    /// Its services are read once it is connected.
    pub resolves: bool,
    /// Calls by these names get no answer.
    pub mute: BTreeSet<String>,
    connected: bool,
    /// What Notifying says, whatever was asked.
    pub notifying: bool,
    /// Notifications reach subscribers.
    pub delivers: bool,
    /// Calls with their times.
    pub calls: Vec<(Instant, String)>,
    /// What was written to the timer.
    pub written: Vec<String>,
}

/// The stand-in; it leaves the bus when dropped.
pub struct StandIn {
    state: Arc<Mutex<State>>,
    orders: tokio::sync::mpsc::UnboundedSender<Order>,
    thread: Option<std::thread::JoinHandle<()>>,
}

enum Order {
    /// The timer says this.
    Say(Vec<u8>),
    /// The adapter comes or goes.
    Adapter(bool),
    End,
}

impl StandIn {
    /// Owns org.bluez on that bus from now on.
    pub fn start(bus: &str, prepare: impl FnOnce(&mut State)) -> Self {
        let mut state = State {
            adapter: true,
            in_reach: true,
            resolves: true,
            mute: BTreeSet::new(),
            connected: false,
            notifying: false,
            delivers: true,
            calls: Vec::new(),
            written: Vec::new(),
        };
        prepare(&mut state);
        let state = Arc::new(Mutex::new(state));
        let (orders, inbox) = tokio::sync::mpsc::unbounded_channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (shared, bus) = (state.clone(), bus.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(&bus, shared, inbox, ready));
        });
        is_ready
            .recv_timeout(Duration::from_secs(20))
            .expect("nobody can own org.bluez on this bus");
        Self { state, orders, thread: Some(thread) }
    }
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
    /// When calls by that name came.
    pub fn calls(&self, name: &str) -> Vec<Instant> {
        self.state().calls.iter().filter(|c| c.1 == name).map(|c| c.0).collect()
    }
    /// The timer notifies of this, given in hex.
    pub fn say(&self, hex: &str) {
        let bytes =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap());
        let _ = self.orders.send(Order::Say(bytes.collect()));
    }
    pub fn adapter(&self, there: bool) {
        let _ = self.orders.send(Order::Adapter(there));
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    bus: &str,
    state: Arc<Mutex<State>>,
    mut orders: tokio::sync::mpsc::UnboundedReceiver<Order>,
    ready: std::sync::mpsc::Sender<()>,
) {
    let mut opened = None;
    for _ in 0..100 {
        match zbus::connection::Builder::address(bus).name("org.bluez").build().await {
            Ok(connection) => {
                opened = Some(connection);
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    let Some(bus) = opened else { return };
    let mut calls = MessageStream::from(&bus);
    let _ = ready.send(());
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                None | Some(Order::End) => return,
                Some(order) => obey(&bus, &state, order).await,
            },
            message = std::future::poll_fn(|cx| std::pin::Pin::new(&mut calls).poll_next(cx)) => {
                let Some(Ok(message)) = message else { return };
                if message.message_type() == Type::MethodCall {
                    answer(&bus, &state, &message).await;
                }
            }
        }
    }
}

async fn obey(bus: &Connection, state: &Mutex<State>, order: Order) {
    match order {
        Order::Say(bytes) => {
            let heard = {
                let state = state.lock().unwrap();
                state.connected && state.notifying && state.delivers
            };
            if heard {
                let value = Map::from([("Value", Variant::from(bytes))]);
                changed(bus, NOTIFY, "org.bluez.GattCharacteristic1", value).await;
            }
        }
        Order::Adapter(there) => {
            state.lock().unwrap().adapter = there;
            let manager = "org.freedesktop.DBus.ObjectManager";
            if there {
                let all = objects(&state.lock().unwrap());
                for (path, interfaces) in all {
                    let body = (ObjectPath::try_from(path).unwrap(), interfaces);
                    let _ =
                        bus.emit_signal(None::<&str>, "/", manager, "InterfacesAdded", &body).await;
                }
            } else {
                link(bus, state, false).await;
                for (path, interface) in [
                    (NOTIFY, "org.bluez.GattCharacteristic1"),
                    (WRITE, "org.bluez.GattCharacteristic1"),
                    (DEVICE, "org.bluez.Device1"),
                    (ROOT, "org.bluez.Adapter1"),
                ] {
                    let body = (ObjectPath::try_from(path).unwrap(), vec![interface]);
                    let _ = bus
                        .emit_signal(None::<&str>, "/", manager, "InterfacesRemoved", &body)
                        .await;
                }
            }
        }
        Order::End => {}
    }
}

/// The link comes up or goes, and everybody is told.
async fn link(bus: &Connection, state: &Mutex<State>, up: bool) {
    let resolved = {
        let mut state = state.lock().unwrap();
        state.connected = up;
        state.notifying &= up;
        up && state.resolves
    };
    let news = Map::from([
        ("Connected", Variant::from(up)),
        ("ServicesResolved", Variant::from(resolved)),
    ]);
    changed(bus, DEVICE, "org.bluez.Device1", news).await;
}

async fn changed(bus: &Connection, path: &str, interface: &str, news: Map) {
    let body = (interface, news, Vec::<&str>::new());
    let _ = bus.emit_signal(None::<&str>, path, PROPERTIES, "PropertiesChanged", &body).await;
}

fn device(state: &State) -> Map {
    let mut device = Map::from([
        ("Address", Variant::from(ADDRESS)),
        ("Name", Variant::from("AMG Lab COMM DC1A")),
        ("Adapter", Variant::from(ObjectPath::try_from(ROOT).unwrap())),
        ("Connected", Variant::from(state.connected)),
        ("ServicesResolved", Variant::from(state.connected && state.resolves)),
    ]);
    if state.in_reach {
        device.insert("RSSI", Variant::from(-60_i16));
    }
    device
}

fn objects(state: &State) -> HashMap<&'static str, HashMap<&'static str, Map>> {
    if !state.adapter {
        return HashMap::new();
    }
    let characteristic = |uuid: &'static str| {
        HashMap::from([(
            "org.bluez.GattCharacteristic1",
            Map::from([("UUID", Variant::from(uuid))]),
        )])
    };
    HashMap::from([
        (
            ROOT,
            HashMap::from([(
                "org.bluez.Adapter1",
                Map::from([
                    ("Powered", Variant::from(true)),
                    ("Discovering", Variant::from(false)),
                ]),
            )]),
        ),
        (DEVICE, HashMap::from([("org.bluez.Device1", device(state))])),
        (NOTIFY, characteristic("6e400003-b5a3-f393-e0a9-e50e24dcca9e")),
        (WRITE, characteristic("6e400002-b5a3-f393-e0a9-e50e24dcca9e")),
    ])
}

async fn answer(bus: &Connection, state: &Mutex<State>, message: &Message) {
    let header: Header<'_> = message.header();
    let name = header.member().map(ToString::to_string).unwrap_or_default();
    {
        let mut state = state.lock().unwrap();
        state.calls.push((Instant::now(), name.clone()));
        if state.mute.contains(&name) {
            return;
        }
    }
    let done = match name.as_str() {
        "GetManagedObjects" => {
            let all: HashMap<ObjectPath<'_>, _> = objects(&state.lock().unwrap())
                .into_iter()
                .map(|(path, interfaces)| (ObjectPath::try_from(path).unwrap(), interfaces))
                .collect();
            bus.reply(&header, &all).await
        }
        "GetAll" => {
            let all = device(&state.lock().unwrap());
            bus.reply(&header, &all).await
        }
        "Get" => {
            let on = state.lock().unwrap().notifying;
            bus.reply(&header, &Variant::from(on)).await
        }
        "Connect" if !state.lock().unwrap().in_reach => {
            bus.reply_error(&header, "org.bluez.Error.Failed", &"le-connection-abort-by-local")
                .await
        }
        "Connect" => {
            link(bus, state, true).await;
            bus.reply(&header, &()).await
        }
        "Disconnect" => {
            link(bus, state, false).await;
            bus.reply(&header, &()).await
        }
        "StartNotify" | "StopNotify" => {
            state.lock().unwrap().notifying = name == "StartNotify";
            bus.reply(&header, &()).await
        }
        "WriteValue" => {
            if let Ok((bytes, _)) =
                message.body().deserialize::<(Vec<u8>, HashMap<String, zbus::OwnedVariant>)>()
            {
                state.lock().unwrap().written.push(String::from_utf8_lossy(&bytes).into_owned());
            }
            bus.reply(&header, &()).await
        }
        _ => bus.reply(&header, &()).await,
    };
    done.expect("the bus takes an answer");
}
