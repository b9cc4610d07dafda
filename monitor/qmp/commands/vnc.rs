//! Commands about those who see the machine over a network.

use std::sync::Arc;

use base::chardev::{Family, SocketAddress};
use serde_json::{Value, json};
use ui::vnc::{self, ClientInfo, Endpoint, Expiry, Server, VncError};

use super::chardev_add::{FdAddress, InetAddress, UnixAddress};
use crate::qapi::{ErrorClass, Member, Members, Qapi, QmpError, Type};
use crate::qmp::Call;
use crate::target::Target;
use crate::{qapi_struct, qapi_words};

impl From<VncError> for QmpError {
    fn from(error: VncError) -> Self {
        QmpError::new(error.to_string())
    }
}

/// A word of one of the enumerations below.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident [$($word:literal),*];)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(&'static str);

        qapi_words!($name, [$($name($word)),*], |word| word.0);
    )*};
}

words! {
    /// A kind of address.
    NetworkAddressFamily ["ipv4", "ipv6", "unix", "vsock", "unknown"];
    /// How clients have to prove who they are.
    VncPrimaryAuth ["none", "vnc", "ra2", "ra2ne", "tight", "ultra", "tls", "vencrypt", "sasl"];
    /// What is within an encrypted connection.
    VncVencryptSubAuth [
        "plain", "tls-none", "x509-none", "tls-vnc", "x509-vnc", "tls-plain", "x509-plain",
        "tls-sasl", "x509-sasl"
    ];
    /// How displays are reached.
    DisplayProtocol ["vnc", "spice"];
    /// What becomes of who is connected.
    SetPasswordAction ["keep", "fail", "disconnect"];
    /// Displays that can be told to reload something.
    DisplayReloadType ["vnc"];
    /// Displays that can be changed.
    DisplayUpdateType ["vnc"];
    /// Kinds of addresses.
    SocketAddressType ["inet", "unix", "vsock", "fd"];
}

qapi_struct! {
    /// One end of a connection.
    pub struct VncBasicInfo {
        "host" host: String,
        "service" service: String,
        "family" family: NetworkAddressFamily,
        "websocket" websocket: bool,
    }
}

impl From<&Endpoint> for VncBasicInfo {
    fn from(endpoint: &Endpoint) -> Self {
        VncBasicInfo {
            host: endpoint.host.clone(),
            service: endpoint.service.clone(),
            family: NetworkAddressFamily(endpoint.family),
            websocket: endpoint.websocket,
        }
    }
}

qapi_struct! {
    /// A server's end of a connection.
    pub struct VncServerInfo {
        "host" host: String,
        "service" service: String,
        "family" family: NetworkAddressFamily,
        "websocket" websocket: bool,
        "auth" auth: Option<String>,
    }
}

qapi_struct! {
    /// A client.
    pub struct VncClientInfo {
        "host" host: String,
        "service" service: String,
        "family" family: NetworkAddressFamily,
        "websocket" websocket: bool,
        "x509_dname" x509_dname: Option<String>,
        "sasl_username" sasl_username: Option<String>,
    }
}

impl From<&Endpoint> for VncClientInfo {
    fn from(endpoint: &Endpoint) -> Self {
        let VncBasicInfo { host, service, family, websocket } = endpoint.into();
        VncClientInfo { host, service, family, websocket, x509_dname: None, sasl_username: None }
    }
}

fn clients(server: &Server) -> Vec<VncClientInfo> {
    server.clients().iter().map(|ClientInfo { peer }| peer.into()).collect()
}

qapi_struct! {
    /// A client has connected.
    pub(in crate::qmp) struct Connected {
        "server" server: VncServerInfo,
        "client" client: VncBasicInfo,
    }
}

qapi_struct! {
    /// A client has got in, or has gone.
    pub(in crate::qmp) struct ClientEvent {
        "server" server: VncServerInfo,
        "client" client: VncClientInfo,
    }
}

/// An event's name and what comes with it.
pub(in crate::qmp) fn describe(event: &vnc::Event) -> (&'static str, Option<Value>) {
    let VncBasicInfo { host, service, family, websocket } = (&event.server).into();
    let auth = Some(event.auth.name().to_owned());
    let server = VncServerInfo { host, service, family, websocket, auth };
    let client_event = |server| ClientEvent { server, client: (&event.client).into() }.write();
    match event.kind {
        vnc::EventKind::Connected => {
            ("VNC_CONNECTED", Connected { server, client: (&event.client).into() }.write())
        }
        vnc::EventKind::Initialized => ("VNC_INITIALIZED", client_event(server)),
        vnc::EventKind::Disconnected => ("VNC_DISCONNECTED", client_event(server)),
    }
}

qapi_struct! {
    /// The first server.
    pub(in crate::qmp) struct VncInfo {
        "enabled" enabled: bool,
        "host" host: Option<String>,
        "family" family: Option<NetworkAddressFamily>,
        "service" service: Option<String>,
        "auth" auth: Option<String>,
        "clients" clients: Option<Vec<VncClientInfo>>,
    }
}

pub(in crate::qmp) fn query_vnc(call: &Call<'_>, (): ()) -> Result<VncInfo, QmpError> {
    let server = call.target.vm.vnc().find(None);
    // The last is the first that was opened.
    let place = server.as_ref().and_then(|server| Some((server, server.endpoints().pop()?.0)));
    let Some((server, endpoint)) = place else {
        return Ok(VncInfo {
            enabled: false,
            host: None,
            family: None,
            service: None,
            auth: None,
            clients: None,
        });
    };
    Ok(VncInfo {
        enabled: true,
        host: Some(endpoint.host),
        family: Some(NetworkAddressFamily(endpoint.family)),
        service: Some(endpoint.service),
        auth: Some(server.auth().name().into()),
        clients: Some(clients(server)),
    })
}

qapi_struct! {
    /// Where a server listens.
    pub(in crate::qmp) struct VncServerInfo2 {
        "host" host: String,
        "service" service: String,
        "family" family: NetworkAddressFamily,
        "websocket" websocket: bool,
        "auth" auth: VncPrimaryAuth,
        "vencrypt" vencrypt: Option<VncVencryptSubAuth>,
    }
}

qapi_struct! {
    /// A server.
    pub(in crate::qmp) struct VncInfo2 {
        "id" id: String,
        "server" server: Vec<VncServerInfo2>,
        "clients" clients: Vec<VncClientInfo>,
        "auth" auth: VncPrimaryAuth,
        "vencrypt" vencrypt: Option<VncVencryptSubAuth>,
        "display" display: Option<String>,
    }
}

pub(in crate::qmp) fn query_vnc_servers(
    call: &Call<'_>,
    (): (),
) -> Result<Vec<VncInfo2>, QmpError> {
    let place = |(endpoint, auth): (Endpoint, vnc::Auth)| {
        let VncBasicInfo { host, service, family, websocket } = (&endpoint).into();
        VncServerInfo2 {
            host,
            service,
            family,
            websocket,
            auth: VncPrimaryAuth(auth.primary()),
            vencrypt: auth.vencrypt().map(VncVencryptSubAuth),
        }
    };
    let info = |server: Arc<Server>| VncInfo2 {
        id: server.id().into(),
        server: server.endpoints().into_iter().map(place).collect(),
        clients: clients(&server),
        auth: VncPrimaryAuth(server.auth().primary()),
        vencrypt: server.auth().vencrypt().map(VncVencryptSubAuth),
        display: server.display(),
    };
    // The last comes first, as in QEMU.
    Ok(call.target.vm.vnc().all().into_iter().rev().map(info).collect())
}

/// An object whose further members depend on one of them.
fn union(
    name: &'static str,
    tag: &'static str,
    members: Vec<Member>,
    variants: Vec<(&'static str, Type)>,
) -> Type {
    Type::Union { name, members, tag, variants }
}

fn member<T: Qapi>(name: &'static str) -> Member {
    Member { name, ty: T::ty(), optional: T::OPTIONAL }
}

qapi_struct! {
    /// Which server.
    struct VncDisplay { "display" display: Option<String> }
}

/// A password, for whom, and what becomes of who is connected.
pub(in crate::qmp) struct SetPassword {
    protocol: DisplayProtocol,
    password: String,
    connected: Option<SetPasswordAction>,
    display: Option<String>,
}

impl Qapi for SetPassword {
    fn ty() -> Type {
        let members = vec![
            member::<DisplayProtocol>("protocol"),
            member::<String>("password"),
            member::<Option<SetPasswordAction>>("connected"),
        ];
        let variants = vec![("vnc", VncDisplay::ty()), ("spice", <()>::ty())];
        union("SetPasswordOptions", "protocol", members, variants)
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let mut members = Members::of(value, name)?;
        let protocol: DisplayProtocol = members.take("protocol")?;
        let (password, connected) = (members.take("password")?, members.take("connected")?);
        let display = rest(protocol, members)?;
        Ok(SetPassword { protocol, password, connected, display })
    }

    fn write(self) -> Option<Value> {
        None
    }
}

/// The name of a server, if the protocol has such.
fn rest(protocol: DisplayProtocol, members: Members) -> Result<Option<String>, QmpError> {
    match protocol.0 {
        "vnc" => Ok(VncDisplay::read(members.rest().into(), "")?.display),
        _ => members.finish().map(|()| None),
    }
}

fn no_spice() -> QmpError {
    QmpError::of(ErrorClass::DeviceNotActive, "SPICE is not in use")
}

/// What came of a new password.
pub(crate) enum PasswordSet {
    /// It counts.
    Done,
    /// There is no such server.
    NoServer,
    /// The server asks for none.
    NotAsked,
}

impl Target {
    /// Changes the password of a server.
    pub(crate) fn set_vnc_password(&self, display: Option<&str>, password: &str) -> PasswordSet {
        match self.vm.vnc().find(display) {
            None => PasswordSet::NoServer,
            Some(server) if server.set_password(password) => PasswordSet::Done,
            Some(_) => PasswordSet::NotAsked,
        }
    }

    /// Sets until when the password of a server counts.
    pub(crate) fn expire_vnc_password(
        &self,
        display: Option<&str>,
        time: &str,
    ) -> Result<(), QmpError> {
        let expiry = Expiry::parse(time).ok_or_else(|| {
            QmpError::new(format!("Parameter 'time' doesn't take value '{time}'"))
        })?;
        let server = self.vm.vnc().find(display);
        let server = server.ok_or_else(|| QmpError::new("Could not set password expire time"))?;
        server.set_expiry(expiry);
        Ok(())
    }
}

fn change_password(call: &Call<'_>, display: Option<&str>, password: &str) -> Result<(), QmpError> {
    match call.target.set_vnc_password(display, password) {
        PasswordSet::Done => Ok(()),
        _ => Err(QmpError::new("Could not set password")),
    }
}

pub(in crate::qmp) fn set_password(call: &Call<'_>, wanted: SetPassword) -> Result<(), QmpError> {
    if wanted.protocol.0 == "spice" {
        return Err(no_spice());
    }
    if wanted.connected.is_some_and(|action| action.0 != "keep") {
        let message = "parameter 'connected' must be 'keep' when 'protocol' is 'vnc'";
        return Err(QmpError::new(message));
    }
    change_password(call, wanted.display.as_deref(), &wanted.password)
}

/// A time, and for whom it is.
pub(in crate::qmp) struct ExpirePassword {
    protocol: DisplayProtocol,
    time: String,
    display: Option<String>,
}

impl Qapi for ExpirePassword {
    fn ty() -> Type {
        let members = vec![member::<DisplayProtocol>("protocol"), member::<String>("time")];
        let variants = vec![("vnc", VncDisplay::ty()), ("spice", <()>::ty())];
        union("ExpirePasswordOptions", "protocol", members, variants)
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let mut members = Members::of(value, name)?;
        let protocol: DisplayProtocol = members.take("protocol")?;
        let time = members.take("time")?;
        Ok(ExpirePassword { protocol, time, display: rest(protocol, members)? })
    }

    fn write(self) -> Option<Value> {
        None
    }
}

pub(in crate::qmp) fn expire_password(
    call: &Call<'_>,
    wanted: ExpirePassword,
) -> Result<(), QmpError> {
    if wanted.protocol.0 == "spice" {
        return Err(no_spice());
    }
    call.target.expire_vnc_password(wanted.display.as_deref(), &wanted.time)
}

qapi_struct! {
    /// A password.
    pub(in crate::qmp) struct Password { "password" password: String }
}

pub(in crate::qmp) fn change_vnc_password(
    call: &Call<'_>,
    Password { password }: Password,
) -> Result<(), QmpError> {
    change_password(call, None, &password)
}

qapi_struct! {
    /// What is to be read again.
    struct Certificates { "tls-certs" tls_certs: Option<bool> }
}

/// Which display is to read what again.
pub(in crate::qmp) struct DisplayReload(Certificates);

impl Qapi for DisplayReload {
    fn ty() -> Type {
        let members = vec![member::<DisplayReloadType>("type")];
        union("DisplayReloadOptions", "type", members, vec![("vnc", Certificates::ty())])
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let mut members = Members::of(value, name)?;
        members.take::<DisplayReloadType>("type")?;
        Certificates::read(members.rest().into(), name).map(DisplayReload)
    }

    fn write(self) -> Option<Value> {
        None
    }
}

fn first_server(call: &Call<'_>) -> Result<Arc<Server>, QmpError> {
    let server = call.target.vm.vnc().find(None);
    server.ok_or_else(|| QmpError::new("Can not find vnc display"))
}

pub(in crate::qmp) fn display_reload(
    call: &Call<'_>,
    DisplayReload(wanted): DisplayReload,
) -> Result<(), QmpError> {
    if wanted.tls_certs == Some(true) {
        first_server(call)?.reload_certificates()?;
    }
    Ok(())
}

/// Where a socket is, in the form without a layer around it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::qmp) struct FlatAddress(pub SocketAddress);

impl Qapi for FlatAddress {
    fn ty() -> Type {
        let variants = vec![
            ("inet", InetAddress::ty()),
            ("unix", UnixAddress::ty()),
            ("vsock", <()>::ty()),
            ("fd", FdAddress::ty()),
        ];
        union("SocketAddress", "type", vec![member::<SocketAddressType>("type")], variants)
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let mut members = Members::of(value, name)?;
        let kind: SocketAddressType = members.take("type")?;
        let rest = members.rest().into();
        Ok(FlatAddress(match kind.0 {
            "inet" => {
                let inet = InetAddress::read(rest, name)?;
                SocketAddress::Inet {
                    family: Family::from_options(inet.ipv4, inet.ipv6)?,
                    to: inet.to.map(|to| u16::try_from(to).unwrap_or(u16::MAX)),
                    host: inet.host,
                    port: inet.port,
                }
            }
            "unix" => {
                let unix = UnixAddress::read(rest, name)?;
                SocketAddress::Unix {
                    path: unix.path,
                    abstract_name: unix.is_abstract.unwrap_or(false),
                    tight: unix.tight.unwrap_or(true),
                }
            }
            "fd" => SocketAddress::Fd(FdAddress::read(rest, name)?.text),
            _ => return Err(QmpError::new("vsock sockets are not available in this build")),
        }))
    }

    fn write(self) -> Option<Value> {
        Some(match self.0 {
            SocketAddress::Inet { host, port, .. } => {
                json!({"host": host, "port": port, "type": "inet"})
            }
            SocketAddress::Unix { path, abstract_name: true, tight } => {
                json!({"path": path, "abstract": true, "tight": tight, "type": "unix"})
            }
            SocketAddress::Unix { path, .. } => json!({"path": path, "type": "unix"}),
            SocketAddress::Fd(number) => json!({"str": number, "type": "fd"}),
        })
    }
}

/// Which display is to listen where.
pub(in crate::qmp) struct DisplayUpdate(Option<Vec<FlatAddress>>);

impl Qapi for DisplayUpdate {
    fn ty() -> Type {
        let addresses = Type::Object {
            name: "DisplayUpdateOptionsVNC",
            members: vec![member::<Option<Vec<FlatAddress>>>("addresses")],
        };
        let members = vec![member::<DisplayUpdateType>("type")];
        union("DisplayUpdateOptions", "type", members, vec![("vnc", addresses)])
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let mut members = Members::of(value, name)?;
        members.take::<DisplayUpdateType>("type")?;
        let addresses = members.take("addresses")?;
        members.finish()?;
        Ok(DisplayUpdate(addresses))
    }

    fn write(self) -> Option<Value> {
        None
    }
}

pub(in crate::qmp) fn display_update(
    call: &Call<'_>,
    DisplayUpdate(addresses): DisplayUpdate,
) -> Result<(), QmpError> {
    let server = first_server(call)?;
    if let Some(addresses) = addresses {
        let addresses: Vec<SocketAddress> =
            addresses.into_iter().map(|FlatAddress(address)| address).collect();
        server.listen_at(&addresses)?;
    }
    Ok(())
}
