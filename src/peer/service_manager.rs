//! Asks the system's service manager which user a unit runs as.
//!
//! While the service manager loads credentials for a unit, no process of the unit has the unit's user yet, so
//! the kernel cannot say it. systemd reports it on the system bus: the properties UID and GID, which it has
//! once it has looked the unit's user up, which is before it loads credentials; without `User=` they are not
//! set, and the unit runs as root.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::bus_message::{self, Call, Message, PREFIX_LEN, Value};

const DEFAULT_BUS: &str = "/run/dbus/system_bus_socket";
const MANAGER: &str = "org.freedesktop.systemd1";
const UNITS_PATH: &str = "/org/freedesktop/systemd1/unit/";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// The properties of a unit's user, in the order of their calls.
const USER_PROPERTIES: [&str; 5] = ["UID", "GID", "User", "Group", "SupplementaryGroups"];
/// What systemd reports where it has not looked a number up.
const NO_NUMBER: u32 = u32::MAX;
/// How long the service manager may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest line of the authentication, and most messages between two replies.
const MAX_LINE_LEN: usize = 256;
const MAX_OTHER_MESSAGES: u32 = 64;
/// Supplementary groups of one unit.
const MAX_UNIT_GROUPS: usize = 64;

/// The system's service manager.
#[derive(Clone, Debug)]
pub struct ServiceManager {
    bus: PathBuf,
}

/// Which user and groups a unit's processes have, as the service manager reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitUser {
    /// The unit's user.
    pub uid: u32,
    /// The unit's primary group.
    pub gid: u32,
    /// `SupplementaryGroups=`, by number or name, as the unit has them. Groups that the user database gives
    /// the user are not among them.
    pub groups: Vec<String>,
}

/// Why the user of a unit is not known. The text goes to the journal.
#[derive(Debug, thiserror::Error)]
pub enum UnitUserError {
    /// The unit's type has no processes of its own for which credentials are loaded.
    #[error("{0} is no service, socket, mount or swap unit")]
    OtherType(String),
    /// The system bus is not reachable, or ended the connection.
    #[error("the service manager cannot be asked for the unit's user: {}: {error}", bus.display())]
    Bus {
        /// The socket of the bus.
        bus: PathBuf,
        /// The failure.
        #[source]
        error: io::Error,
    },
    /// The bus or the service manager refused the question.
    #[error("the service manager does not tell the unit's user: {0}")]
    Refused(String),
}

impl Default for ServiceManager {
    fn default() -> ServiceManager {
        ServiceManager { bus: DEFAULT_BUS.into() }
    }
}

impl ServiceManager {
    /// The service manager at the bus that `DBUS_SYSTEM_BUS_ADDRESS` names as `unix:path=PATH`, by default
    /// `/run/dbus/system_bus_socket`.
    pub fn from_env() -> ServiceManager {
        let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_default();
        match address.strip_prefix("unix:path=").and_then(|rest| rest.split([',', ';']).next()) {
            Some(path) if !path.is_empty() => ServiceManager { bus: path.into() },
            _ => ServiceManager::default(),
        }
    }

    /// Asks for the user of a unit. Takes at most 5 s.
    ///
    /// # Errors
    /// `UnitUserError`.
    pub async fn unit_user(&self, unit: &str) -> Result<UnitUser, UnitUserError> {
        let interface = interface(unit).ok_or_else(|| UnitUserError::OtherType(unit.to_owned()))?;
        let values = tokio::time::timeout(TIMEOUT, properties(&self.bus, unit, interface)).await;
        let bus_error = |error| UnitUserError::Bus { bus: self.bus.clone(), error };
        let values = values
            .map_err(|_| bus_error(io::ErrorKind::TimedOut.into()))?
            .map_err(bus_error)?
            .map_err(UnitUserError::Refused)?;
        unit_user(values).map_err(|what| UnitUserError::Refused(what.to_owned()))
    }
}

/// The interface of a unit's processes.
fn interface(unit: &str) -> Option<&'static str> {
    Some(match unit.rsplit_once('.')?.1 {
        "service" => "org.freedesktop.systemd1.Service",
        "socket" => "org.freedesktop.systemd1.Socket",
        "mount" => "org.freedesktop.systemd1.Mount",
        "swap" => "org.freedesktop.systemd1.Swap",
        _ => return None,
    })
}

/// Reads [`USER_PROPERTIES`]. The inner error is the name of an error that the bus or the manager returned.
async fn properties(
    bus: &Path,
    unit: &str,
    interface: &str,
) -> io::Result<Result<[Option<Value>; 5], String>> {
    let mut stream = UnixStream::connect(bus).await?;
    authenticate(&mut stream).await?;
    let path = object_path(unit);
    let mut calls = Call {
        serial: 1,
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member: "Hello",
        arguments: &[],
    }
    .to_bytes();
    for (serial, property) in (2..).zip(USER_PROPERTIES) {
        let arguments = &[interface, property];
        let call = Call {
            serial,
            destination: MANAGER,
            path: &path,
            interface: PROPERTIES,
            member: "Get",
            arguments,
        };
        calls.extend(call.to_bytes());
    }
    stream.write_all(&calls).await?;
    let mut values = [const { None }; 5];
    let (mut left, mut others) = (USER_PROPERTIES.len() + 1, 0);
    while left > 0 {
        match read_message(&mut stream).await? {
            Message::Return(serial, value) => {
                // The reply to the first call has no value that is read.
                if let Some(known) = (serial as usize).checked_sub(2).and_then(|index| values.get_mut(index))
                {
                    *known = value;
                }
                left -= 1;
            }
            Message::Error(_, name) => return Ok(Err(name)),
            Message::Other if others < MAX_OTHER_MESSAGES => others += 1,
            Message::Other => return Err(malformed()),
        }
    }
    Ok(Ok(values))
}

/// Authenticates as the user of this process ("EXTERNAL" of the specification).
async fn authenticate(stream: &mut UnixStream) -> io::Result<()> {
    let uid = nix::unistd::geteuid().to_string();
    let hex: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes()).await?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_LINE_LEN {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    if !line.starts_with(b"OK ") {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the bus does not accept this user"));
    }
    stream.write_all(b"BEGIN\r\n").await
}

async fn read_message(stream: &mut UnixStream) -> io::Result<Message> {
    let mut prefix = [0; PREFIX_LEN];
    stream.read_exact(&mut prefix).await?;
    let length = bus_message::message_len(&prefix).ok_or_else(malformed)?;
    let mut message = prefix.to_vec();
    message.resize(length, 0);
    stream.read_exact(&mut message[PREFIX_LEN..]).await?;
    bus_message::parse(&message).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the bus sent what is no message of D-Bus")
}

/// The object path of a unit: each byte but letters and digits is written as `_` and two hexadecimal digits,
/// and so is a digit at the beginning.
fn object_path(unit: &str) -> String {
    let mut path = UNITS_PATH.to_owned();
    for (index, byte) in unit.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => path.push(char::from(byte)),
            b'0'..=b'9' if index > 0 => path.push(char::from(byte)),
            byte => path.push_str(&format!("_{byte:02x}")),
        }
    }
    path
}

/// Root where the unit has no `User=`. A user that the manager has not looked up is not known.
fn unit_user(values: [Option<Value>; 5]) -> Result<UnitUser, &'static str> {
    let [uid, gid, user, group, groups] = values;
    let number = |number: Option<Value>, name: Option<Value>, what| match (number, name) {
        (Some(Value::Number(number)), _) if number != NO_NUMBER => Ok(number),
        (_, Some(Value::Text(name))) if matches!(name.as_str(), "" | "root" | "0") => Ok(0),
        _ => Err(what),
    };
    let uid = number(uid, user, "it has not looked the unit's user up")?;
    let gid = number(gid, group, "it has not looked the unit's group up")?;
    match groups {
        Some(Value::Texts(groups)) if groups.len() <= MAX_UNIT_GROUPS => Ok(UnitUser { uid, gid, groups }),
        Some(Value::Texts(_)) => Err("the unit has too many supplementary groups"),
        _ => Err("it does not tell the unit's supplementary groups"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// dbus-daemon(1) without a service manager.
    struct Bus(Child, tempfile::TempDir);

    impl Bus {
        fn start() -> Bus {
            let dir = tempfile::tempdir().unwrap();
            let address = format!("--address=unix:path={}", dir.path().join("bus").display());
            let child = Command::new("dbus-daemon")
                .args(["--session", "--nofork", "--nopidfile", &address])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("dbus-daemon, of the package dbus-daemon or dbus");
            let bus = Bus(child, dir);
            for _ in 0..500 {
                if std::os::unix::net::UnixStream::connect(bus.path()).is_ok() {
                    return bus;
                }
                std::thread::park_timeout(Duration::from_millis(10));
            }
            panic!("dbus-daemon does not listen");
        }

        fn path(&self) -> PathBuf {
            self.1.path().join("bus")
        }
    }

    impl Drop for Bus {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[tokio::test]
    async fn a_bus_without_a_service_manager_is_named() {
        let bus = Bus::start();
        let error = ServiceManager { bus: bus.path() }.unit_user("a.service").await.unwrap_err();
        let UnitUserError::Refused(name) = error else { panic!("{error}") };
        assert!(name.starts_with("org.freedesktop.DBus.Error."), "{name}");
        // What the bus itself answers: a text.
        let mut stream = UnixStream::connect(bus.path()).await.unwrap();
        authenticate(&mut stream).await.unwrap();
        let hello = |serial, member, interface, arguments| Call {
            serial,
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface,
            member,
            arguments,
        };
        let mut calls = hello(1, "Hello", "org.freedesktop.DBus", &[]).to_bytes();
        calls.extend(hello(2, "Get", PROPERTIES, &["org.freedesktop.DBus", "Interfaces"]).to_bytes());
        stream.write_all(&calls).await.unwrap();
        loop {
            if let Message::Return(2, value) = read_message(&mut stream).await.unwrap() {
                let Some(Value::Texts(interfaces)) = value else { panic!("{value:?}") };
                assert!(interfaces.contains(&"org.freedesktop.DBus.Monitoring".to_owned()), "{interfaces:?}");
                break;
            }
        }
    }

    #[tokio::test]
    async fn a_bus_that_does_not_exist_and_units_of_other_types_are_named() {
        let manager = ServiceManager { bus: "/nonexistent/bus".into() };
        assert!(matches!(manager.unit_user("a.service").await, Err(UnitUserError::Bus { .. })));
        assert!(matches!(manager.unit_user("a.scope").await, Err(UnitUserError::OtherType(_))));
    }

    #[test]
    fn object_paths_are_escaped_as_systemd_does() {
        assert_eq!(object_path("ssh.service"), "/org/freedesktop/systemd1/unit/ssh_2eservice");
        assert_eq!(
            object_path("1a-b@c\\x2d.service"),
            "/org/freedesktop/systemd1/unit/_31a_2db_40c_5cx2d_2eservice"
        );
    }

    #[test]
    fn a_unit_without_user_is_roots_and_a_user_that_was_not_looked_up_is_not_known() {
        let values = |uid, user: &str| {
            let text = |text: &str| Some(Value::Text(text.into()));
            [
                Some(Value::Number(uid)),
                Some(Value::Number(uid)),
                text(user),
                text(user),
                Some(Value::Texts(Vec::new())),
            ]
        };
        let user = |uid| UnitUser { uid, gid: uid, groups: Vec::new() };
        assert_eq!(unit_user(values(NO_NUMBER, "")), Ok(user(0)));
        assert_eq!(unit_user(values(1000, "researcher")), Ok(user(1000)));
        assert!(unit_user(values(NO_NUMBER, "researcher")).is_err());
        assert!(unit_user([None, None, None, None, None]).is_err());
    }
}
