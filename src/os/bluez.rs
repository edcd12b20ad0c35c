//! BlueZ over D-Bus: what its objects are, what is asked of it, what it tells.
//!
//! Notifications come by `StartNotify` and `PropertiesChanged`, never `AcquireNotify`: another
//! program may listen on the same link. No judgement here: [`crate::tasks::bridge`] decides.
use crate::os::clock;
use crate::units::RawTime;
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use zbus::export::futures_core::Stream as _;
use zbus::message::Type;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant, Variant};

const BLUEZ: &str = "org.bluez";
const BUS: &str = "org.freedesktop.DBus";
const ADAPTER: &str = "org.bluez.Adapter1";
const DEVICE: &str = "org.bluez.Device1";
const CHARACTERISTIC: &str = "org.bluez.GattCharacteristic1";
/// The timer writes here.
const NOTIFY: &str = "6e400003-b5a3-f393-e0a9-e50e24dcca9e";
/// The timer reads here.
const WRITE: &str = "6e400002-b5a3-f393-e0a9-e50e24dcca9e";
/// No call but Connect takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nor that.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);
/// Signals that wait to be read; a scan in a crowd makes many.
const QUEUE: usize = 1024;

/// Properties by name.
type Properties = HashMap<String, OwnedVariant>;
/// Objects with their interfaces and properties.
type Objects = HashMap<OwnedObjectPath, HashMap<String, Properties>>;

/// A device as bluetoothd described it: path and properties.
pub struct Read(String, Properties);

/// Why a call was not answered as wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The error's name (`org.bluez.Error.InProgress`), or what went wrong with the bus.
    pub name: String,
    /// In words.
    pub text: String,
}

impl Refused {
    /// Rights are missing.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.name.ends_with(".AccessDenied") || self.name.ends_with(".AuthFailed")
    }
    /// Nobody answers for BlueZ.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.name.ends_with(".ServiceUnknown")
            || self.name.ends_with(".NameHasNoOwner")
            || self.name.contains(".Spawn.")
            || self.name.contains("systemd1")
    }
    /// What was asked is already so.
    #[must_use]
    pub fn is_already(&self) -> bool {
        self.name.ends_with(".AlreadyConnected")
            || (self.name.ends_with(".InProgress") && self.text.contains("lready"))
    }
}

impl From<zbus::Error> for Refused {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, text, _) => {
                Self { name: name.to_string(), text: text.unwrap_or_else(|| name.to_string()) }
            }
            // Names of the bus's own errors come as this.
            zbus::Error::FDO(error) => {
                let name = zbus::DBusError::name(&*error).to_string();
                let text = zbus::DBusError::description(&*error).unwrap_or(&name).to_owned();
                Self { name, text }
            }
            other => Self { name: "bus".into(), text: other.to_string() },
        }
    }
}

/// A Bluetooth adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adapter {
    /// It is switched on.
    pub powered: bool,
    /// It looks for devices.
    pub discovering: bool,
}

/// A device BlueZ knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its adapter's path.
    pub adapter: String,
    /// In capitals.
    pub address: String,
    /// As advertised.
    pub name: String,
    /// A link is up.
    pub connected: bool,
    /// Its services are known.
    pub resolved: bool,
    /// Signal strength, dBm, while it is seen.
    pub rssi: Option<i16>,
}

/// BlueZ's objects as far as they matter here.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// By path.
    pub adapters: BTreeMap<String, Adapter>,
    /// By path.
    pub devices: BTreeMap<String, Device>,
    /// Characteristics of the timer's service, by path; `true`: the one that notifies.
    characteristics: BTreeMap<String, bool>,
}

/// What BlueZ told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A notification of the characteristic at this path, stamped on receipt.
    Notification(String, RawTime, Vec<u8>),
    /// The tree has changed.
    Changed,
    /// bluetoothd has left or come back.
    Owner(bool),
    /// The bus is gone.
    Closed,
}

fn read<T: TryFrom<OwnedVariant>>(properties: &Properties, name: &str) -> Option<T> {
    properties.get(name)?.try_clone().ok().and_then(|value| T::try_from(value).ok())
}

impl Tree {
    /// The characteristic of a device that notifies, or that is written to.
    #[must_use]
    pub fn characteristic(&self, device: &str, notifies: bool) -> Option<&str> {
        let below =
            |path: &str| path.strip_prefix(device).is_some_and(|rest| rest.starts_with('/'));
        self.characteristics
            .iter()
            .find(|(path, kind)| **kind == notifies && below(path))
            .map(|(path, _)| path.as_str())
    }

    /// Takes a device as it was read; nothing of one that is not known.
    pub fn told(&mut self, Read(path, properties): &Read) {
        if self.devices.contains_key(path) {
            self.put(path, DEVICE, properties);
        }
    }

    fn put(&mut self, path: &str, interface: &str, p: &Properties) -> bool {
        match interface {
            ADAPTER => {
                let adapter = self.adapters.entry(path.to_owned()).or_default();
                let before = adapter.clone();
                adapter.powered = read(p, "Powered").unwrap_or(adapter.powered);
                adapter.discovering = read(p, "Discovering").unwrap_or(adapter.discovering);
                before != *adapter
            }
            DEVICE => {
                let device = self.devices.entry(path.to_owned()).or_default();
                let before = device.clone();
                if let Some(adapter) = read::<OwnedObjectPath>(p, "Adapter") {
                    adapter.as_str().clone_into(&mut device.adapter);
                }
                if let Some(address) = read::<String>(p, "Address") {
                    device.address = address.to_ascii_uppercase();
                }
                // "Alias" is the address with dashes until a name was heard.
                if let Some(name) = read::<String>(p, "Name") {
                    device.name = name;
                }
                device.connected = read(p, "Connected").unwrap_or(device.connected);
                device.resolved = read(p, "ServicesResolved").unwrap_or(device.resolved);
                if let Some(rssi) = read(p, "RSSI") {
                    device.rssi = Some(rssi);
                }
                before != *device
            }
            CHARACTERISTIC => match read::<String>(p, "UUID").as_deref() {
                Some(NOTIFY) => self.characteristics.insert(path.to_owned(), true).is_none(),
                Some(WRITE) => self.characteristics.insert(path.to_owned(), false).is_none(),
                _ => false,
            },
            _ => false,
        }
    }

    fn take(&mut self, path: &str, interfaces: &[String]) {
        for interface in interfaces {
            match interface.as_str() {
                ADAPTER => drop(self.adapters.remove(path)),
                DEVICE => drop(self.devices.remove(path)),
                CHARACTERISTIC => drop(self.characteristics.remove(path)),
                _ => {}
            }
        }
    }
}

/// The bus, and what BlueZ has told.
pub struct Bluez {
    bus: Connection,
    signals: MessageStream,
    owner: MessageStream,
    /// BlueZ's objects.
    pub tree: Tree,
}

/// Calls to BlueZ; cheap to copy into a future of its own.
#[derive(Clone)]
pub struct Caller {
    bus: Connection,
}

impl Bluez {
    /// Opens the system bus and listens to BlueZ. BlueZ itself may be absent.
    ///
    /// # Errors
    /// There is no bus, or it refuses us.
    pub async fn open() -> Result<Self, Refused> {
        let opening = async {
            let bus = zbus::connection::Builder::system()
                .method_timeout(CONNECT_PATIENCE + PATIENCE)
                .build()
                .await?;
            let queue = std::num::NonZeroUsize::new(QUEUE);
            let rule = MatchRule::builder().msg_type(Type::Signal).sender(BLUEZ).build()?;
            let signals = MessageStream::for_match_rule(rule, &bus, queue).await?;
            let rule = MatchRule::builder()
                .msg_type(Type::Signal)
                .sender(BUS)
                .interface(BUS)
                .member("NameOwnerChanged")
                .arg(0, BLUEZ)
                .build()?;
            let owner = MessageStream::for_match_rule(rule, &bus, None).await?;
            Ok::<_, zbus::Error>(Self { bus, signals, owner, tree: Tree::default() })
        };
        match tokio::time::timeout(PATIENCE, opening).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(Refused { name: "timeout".into(), text: "the bus is silent".into() }),
        }
    }

    /// For calls.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller { bus: self.bus.clone() }
    }

    /// Reads all objects anew.
    ///
    /// # Errors
    /// bluetoothd is absent, silent or refuses us.
    pub async fn refresh(&mut self) -> Result<(), Refused> {
        self.tree = Tree::default();
        let reply = self
            .caller()
            .call("/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", &(), PATIENCE)
            .await?;
        let objects: Objects = reply.body().deserialize().map_err(Refused::from)?;
        for (path, interfaces) in &objects {
            for (interface, properties) in interfaces {
                self.tree.put(path.as_str(), interface, properties);
            }
        }
        Ok(())
    }

    /// Waits for the next thing BlueZ tells. May be dropped while it waits.
    pub async fn next(&mut self) -> Told {
        loop {
            let (message, from_bus) = poll_fn(|cx| {
                if let Poll::Ready(message) = Pin::new(&mut self.owner).poll_next(cx) {
                    return Poll::Ready((message, true));
                }
                Pin::new(&mut self.signals).poll_next(cx).map(|message| (message, false))
            })
            .await;
            let at = clock::raw_now();
            let Some(Ok(message)) = message else {
                return Told::Closed;
            };
            let told = if from_bus { owner(&message) } else { self.signal(&message, at) };
            if let Some(told) = told {
                return told;
            }
        }
    }

    fn signal(&mut self, message: &Message, at: RawTime) -> Option<Told> {
        let header = message.header();
        let path = header.path()?.as_str().to_owned();
        let body = message.body();
        match header.member()?.as_str() {
            "PropertiesChanged" => {
                let (interface, changed, gone): (String, Properties, Vec<String>) =
                    body.deserialize().ok()?;
                if interface == CHARACTERISTIC {
                    if !self.tree.characteristics.get(&path).copied().unwrap_or(false) {
                        return None;
                    }
                    let value = changed.get("Value")?.try_clone().ok()?;
                    let bytes = Vec::<u8>::try_from(value).ok()?;
                    return Some(Told::Notification(path, at, bytes));
                }
                let mut news = self.tree.put(&path, &interface, &changed);
                if gone.iter().any(|name| name == "RSSI")
                    && let Some(device) = self.tree.devices.get_mut(&path)
                {
                    news |= device.rssi.take().is_some();
                }
                news.then_some(Told::Changed)
            }
            "InterfacesAdded" => {
                let (path, interfaces): (OwnedObjectPath, HashMap<String, Properties>) =
                    body.deserialize().ok()?;
                let mut news = false;
                for (interface, properties) in &interfaces {
                    news |= self.tree.put(path.as_str(), interface, properties);
                }
                news.then_some(Told::Changed)
            }
            "InterfacesRemoved" => {
                let (path, interfaces): (OwnedObjectPath, Vec<String>) = body.deserialize().ok()?;
                self.tree.take(path.as_str(), &interfaces);
                Some(Told::Changed)
            }
            _ => None,
        }
    }
}

fn owner(message: &Message) -> Option<Told> {
    let (_, _, new): (String, String, String) = message.body().deserialize().ok()?;
    Some(Told::Owner(!new.is_empty()))
}

impl Caller {
    async fn call<B>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
        patience: Duration,
    ) -> Result<Message, Refused>
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType + Sync,
    {
        let call = self.bus.call_method(Some(BLUEZ), path, Some(interface), method, body);
        match tokio::time::timeout(patience, call).await {
            Ok(reply) => Ok(reply?),
            Err(_) => Err(Refused {
                name: "timeout".into(),
                text: format!("{method} was not answered within {} s", patience.as_secs()),
            }),
        }
    }

    /// Looks for Low Energy devices.
    ///
    /// # Errors
    /// As bluetoothd says.
    pub async fn start_discovery(&self, adapter: &str) -> Result<(), Refused> {
        let filter: HashMap<&str, Variant<'_>> =
            HashMap::from([("Transport", Variant::from("le"))]);
        self.call(adapter, ADAPTER, "SetDiscoveryFilter", &(filter,), PATIENCE).await?;
        self.call(adapter, ADAPTER, "StartDiscovery", &(), PATIENCE).await.map(drop)
    }

    /// Ends our part of the looking; other programs' goes on.
    ///
    /// # Errors
    /// As bluetoothd says.
    pub async fn stop_discovery(&self, adapter: &str) -> Result<(), Refused> {
        self.call(adapter, ADAPTER, "StopDiscovery", &(), PATIENCE).await.map(drop)
    }

    /// Reads a device's properties, for [`Tree::told`].
    ///
    /// # Errors
    /// As bluetoothd says.
    pub async fn device(&self, path: &str) -> Result<Read, Refused> {
        let properties = "org.freedesktop.DBus.Properties";
        let reply = self.call(path, properties, "GetAll", &(DEVICE,), PATIENCE).await?;
        reply.body().deserialize().map(|p| Read(path.to_owned(), p)).map_err(Refused::from)
    }

    /// Opens the link to a device.
    ///
    /// # Errors
    /// As bluetoothd says.
    pub async fn connect(&self, device: &str) -> Result<(), Refused> {
        self.call(device, DEVICE, "Connect", &(), CONNECT_PATIENCE).await.map(drop)
    }

    /// Ends the link to a device, for everybody: only for a link that we opened and that is of
    /// no use.
    ///
    /// # Errors
    /// As bluetoothd says.
    pub async fn disconnect(&self, device: &str) -> Result<(), Refused> {
        self.call(device, DEVICE, "Disconnect", &(), PATIENCE).await.map(drop)
    }

    /// Subscribes to a characteristic, beside whoever else does.
    ///
    /// # Errors
    /// As bluetoothd says.
    pub async fn start_notify(&self, characteristic: &str) -> Result<(), Refused> {
        self.call(characteristic, CHARACTERISTIC, "StartNotify", &(), PATIENCE).await.map(drop)
    }

    /// Ends our subscription; other programs' go on.
    ///
    /// # Errors
    /// As bluetoothd says.
    pub async fn stop_notify(&self, characteristic: &str) -> Result<(), Refused> {
        self.call(characteristic, CHARACTERISTIC, "StopNotify", &(), PATIENCE).await.map(drop)
    }

    /// Whether anybody is subscribed.
    ///
    /// # Errors
    /// As bluetoothd says.
    pub async fn is_notifying(&self, characteristic: &str) -> Result<bool, Refused> {
        let get = (CHARACTERISTIC, "Notifying");
        let properties = "org.freedesktop.DBus.Properties";
        let reply = self.call(characteristic, properties, "Get", &get, PATIENCE).await?;
        let value: OwnedVariant = reply.body().deserialize().map_err(Refused::from)?;
        Ok(bool::try_from(value).unwrap_or(false))
    }

    /// Writes a command.
    ///
    /// # Errors
    /// As bluetoothd says.
    pub async fn write(&self, characteristic: &str, bytes: &[u8]) -> Result<(), Refused> {
        let options: HashMap<&str, Variant<'_>> = HashMap::new();
        self.call(characteristic, CHARACTERISTIC, "WriteValue", &(bytes, options), PATIENCE)
            .await
            .map(drop)
    }
}
