//! A network namespace with one link to it, which can be taken down: a peer behind it is
//! gone without a FIN, as a laptop whose lid was closed.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::free_port;
use super::process::run;

/// The first address of the pairs, each a /30 of its own.
const FIRST_ADDRESS: u32 = 0x0ad5_0000; // 10.213.0.0

/// A namespace; removed with its link when dropped. Needs root and Debian's `iproute2`.
pub struct Namespace {
    name: String,
    /// The end of the link outside.
    outside: String,
    /// The end inside.
    inside: String,
    number: u16,
}

impl Namespace {
    /// A new one, with its link up.
    pub fn new() -> Self {
        // As long as this process lives nobody else has the number.
        let number = free_port();
        let made = Self {
            name: format!("pm-test-{number}"),
            outside: format!("pm{number}o"),
            inside: format!("pm{number}i"),
            number,
        };
        // What a killed test left behind.
        made.remove();
        let Self { name, outside, inside, .. } = &made;
        let (proxy, peer) = (made.proxy_address(0).ip(), made.peer_address(0).ip());
        ip(&format!("netns add {name}"));
        ip(&format!("link add {outside} type veth peer name {inside} netns {name}"));
        ip(&format!("address add {proxy} peer {peer} dev {outside}"));
        ip(&format!("link set {outside} up"));
        ip(&format!("-n {name} link set lo up"));
        // On `lo`, so that a server there keeps its address while the link is down.
        ip(&format!("-n {name} address add {peer}/32 dev lo"));
        made.set_link("up");
        made
    }

    /// The proxy's end of the link.
    pub fn proxy_address(&self, port: u16) -> SocketAddr {
        self.address(1, port)
    }

    /// The other end, inside.
    pub fn peer_address(&self, port: u16) -> SocketAddr {
        self.address(2, port)
    }

    /// Does something inside. The sockets and threads made there stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let door = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        let enter_and_work = || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(door.as_fd(), network).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter_and_work).join().unwrap())
    }

    /// From now on nothing passes the link, in both directions and without a word.
    pub fn take_link_down(&self) {
        self.set_link("down");
    }

    /// Packets pass again.
    pub fn bring_link_up(&self) {
        self.set_link("up");
    }

    fn set_link(&self, state: &str) {
        let Self { name, inside, .. } = self;
        ip(&format!("-n {name} link set {inside} {state}"));
        if state == "up" {
            let (proxy, peer) = (self.proxy_address(0).ip(), self.peer_address(0).ip());
            ip(&format!("-n {name} route replace {proxy}/32 dev {inside} src {peer}"));
        }
    }

    fn address(&self, host: u32, port: u16) -> SocketAddr {
        let network = FIRST_ADDRESS + (u32::from(self.number) - 20_000) * 4;
        (Ipv4Addr::from(network + host), port).into()
    }

    /// Not even sockets inside keep the link.
    fn remove(&self) {
        for words in
            [format!("link delete {}", self.outside), format!("netns delete {}", self.name)]
        {
            let _ = Command::new("ip").args(words.split(' ')).output();
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.remove();
    }
}

fn ip(words: &str) {
    run(Command::new("ip").args(words.split(' ')));
}
