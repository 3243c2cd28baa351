//! The whole network on a host that the test makes, which is a thread's network namespace and mounts, beside an Internet that is
//! another namespace. A process in the VM's namespace stands for the guest: what it sends reaches the host as a guest's frames do.

mod host;

use std::{
    fs, io,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    thread,
};

use hickory_proto::op::ResponseCode;
use host::*;
use private_network::{Policy, PrivateNetwork};

#[test]
fn without_a_policy_the_internet_is_open_and_metadata_services_are_not() {
    on_a_host(|_, dir| {
        let network = PrivateNetwork::create("open", &dir.join("netns"), &Policy::default()).unwrap();
        let vm = Namespace::of(&network);
        // The Internet sees the host.
        assert_eq!(vm.connect(LISTED, 80).unwrap(), HOST);
        refused(vm.connect(METADATA, 80));
        with_dns(&network, || {
            assert_eq!(network.resolv_conf(), format!("nameserver {}\n", network.gateway()));
            assert_eq!(vm.resolve(network.gateway(), "any.example.").answers.len(), 1);
        });
    });
}

#[test]
fn a_policy_allows_what_it_lists() {
    on_a_host(|_, dir| {
        let policy = policy(&["203.0.113.1:443"], &["a.example:443", "near.example"]);
        let network = PrivateNetwork::create("listed", &dir.join("netns"), &policy).unwrap();
        let vm = Namespace::of(&network);
        assert_eq!(vm.connect(LISTED, 443).unwrap(), HOST);
        refused(vm.connect(LISTED, 80));
        refused(vm.connect(UNLISTED, 443));
        refused(vm.connect(METADATA, 80));
        refused(vm.connect(NAMED, 443));
        with_dns(&network, || {
            let code = |name| vm.resolve(network.gateway(), name).metadata.response_code;
            assert_eq!(code("b.example."), ResponseCode::Refused);
            // The host's own address.
            assert_eq!(code("near.example."), ResponseCode::Refused);
            refused(vm.connect(NAMED, 443));
            assert_eq!(code("a.example."), ResponseCode::NoError);
            assert_eq!(vm.connect(NAMED, 443).unwrap(), HOST);
            refused(vm.connect(NAMED, 80));
        });
    });
}

#[test]
fn nothing_is_allowed_when_all_is_denied() {
    on_a_host(|_, dir| {
        let policy = Policy { deny_all: true, ..Policy::default() };
        let network = PrivateNetwork::create("denied", &dir.join("netns"), &policy).unwrap();
        let vm = Namespace::of(&network);
        refused(vm.connect(LISTED, 443));
        with_dns(&network, || {
            let answer = vm.resolve(network.gateway(), "a.example.");
            assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        });
    });
}

#[test]
fn the_host_and_other_vms_are_out_of_reach_and_nobody_comes_in() {
    on_a_host(|internet, dir| {
        let create = |name| PrivateNetwork::create(name, &dir.join(name), &Policy::default()).unwrap();
        let (one, other) = (create("one"), create("other"));
        let (vm, other_vm) = (Namespace::of(&one), Namespace::of(&other));
        serve(80);
        // A DNS server of the host's.
        serve_at(HOST, 53);
        vm.run(|| serve(80));
        other_vm.run(|| serve(80));
        // The host itself reaches all of them.
        assert_eq!(connect(other.address(), 80).unwrap(), other.gateway());
        assert_eq!(connect(HOST, 80).unwrap(), HOST);
        vm.gets_nothing(HOST, 80);
        assert_eq!(connect(HOST, 53).unwrap(), HOST);
        vm.gets_nothing(HOST, 53);
        vm.gets_nothing(one.gateway(), 80);
        vm.gets_nothing(other.gateway(), 80);
        vm.gets_nothing(other.gateway(), 53);
        vm.gets_nothing(other.address(), 80);
        // A VM that has no rules of its own.
        let plain = Namespace::new();
        plain.join("krun99");
        ip("addr add 10.77.0.1/30 dev krun99");
        ip("link set krun99 up");
        plain.run(|| {
            ip("addr add 10.77.0.2/30 dev eth0");
            ip("link set eth0 up");
            ip("route add default via 10.77.0.1");
            serve(80);
        });
        let beside = Ipv4Addr::new(10, 77, 0, 2);
        assert_eq!(connect(beside, 80).unwrap(), Ipv4Addr::new(10, 77, 0, 1));
        vm.gets_nothing(beside, 80);
        internet.run(|| ip(&format!("route add 10.213.0.0/16 via {HOST}")));
        assert_eq!(internet.connect(HOST, 80).unwrap(), INTERNET);
        internet.gets_nothing(one.address(), 80);
        internet.gets_nothing(one.gateway(), 80);
        internet.gets_nothing(one.gateway(), 53);
    });
}

#[test]
fn another_source_address_is_dropped() {
    on_a_host(|internet, dir| {
        let network = PrivateNetwork::create("spoof", &dir.join("netns"), &Policy::default()).unwrap();
        let server = internet.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9)).unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        Namespace::of(&network).run(|| {
            ip("addr add 10.99.0.1/32 dev eth0");
            // The own one comes behind, on the same way.
            for (source, text) in [(Ipv4Addr::new(10, 99, 0, 1), "spoofed"), (network.address(), "own")] {
                UdpSocket::bind((source, 0)).unwrap().send_to(text.as_bytes(), (LISTED, 9)).unwrap();
            }
        });
        let mut buffer = [0; 16];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip()), (&b"own"[..], HOST.into()));
    });
}

#[test]
fn ipv6_is_dropped() {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        println!("skipped: this kernel has no IPv6");
        return;
    }
    on_a_host(|internet, dir| {
        let network = PrivateNetwork::create("six", &dir.join("netns"), &Policy::default()).unwrap();
        let vm = Namespace::of(&network);
        // All would speak it, and the host would forward it.
        let set =
            |name: &str, value: &str| fs::write(format!("/proc/sys/net/ipv6/conf/{name}"), value).unwrap();
        let on = |link: &str, address: &str| {
            set(&format!("{link}/disable_ipv6"), "0");
            ip(&format!("-6 addr add {address}/64 dev {link} nodad"));
        };
        set("all/forwarding", "1");
        on("krun0", "fd00::1");
        on("uplink", "fd01::1");
        internet.run(|| on("eth0", "fd01::2"));
        vm.run(|| on("eth0", "fd00::2"));
        // Who looks for neighbours would be dropped already.
        let hardware = |link: &str| {
            let shown = output("ip", &["-br", "link", "show", link]);
            shown.split_whitespace().nth(2).unwrap().to_owned()
        };
        let (outer, inner) = (hardware("krun0"), vm.run(|| hardware("eth0")));
        ip(&format!("-6 neigh replace fd00::2 lladdr {inner} dev krun0 nud permanent"));
        let bind = || {
            let server = UdpSocket::bind("[::]:999").unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            server
        };
        let (here, there) = (bind(), internet.run(bind));
        vm.run(|| {
            ip(&format!("-6 neigh replace fd00::1 lladdr {outer} dev eth0 nud permanent"));
            ip("-6 route add default via fd00::1");
            let socket = UdpSocket::bind("[fd00::2]:0").unwrap();
            for to in ["fd00::1", "fd01::2"] {
                socket.send_to(b"guest", (to, 999)).unwrap();
            }
        });
        // The host's own come behind, on the same ways.
        let socket = UdpSocket::bind("[::]:0").unwrap();
        for (server, address) in [(here, "fd00::1"), (there, "fd01::2")] {
            socket.send_to(b"host", (address, 999)).unwrap();
            let mut buffer = [0; 16];
            let length = server.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"host");
        }
    });
}

#[test]
fn the_connections_of_a_vm_before_are_forgotten() {
    on_a_host(|internet, dir| {
        let first = PrivateNetwork::create("first", &dir.join("first"), &Policy::default()).unwrap();
        let address = first.address();
        let server = internet.run(|| UdpSocket::bind((LISTED, 9)).unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let bound = || UdpSocket::bind((address, 999)).unwrap();
        let mut buffer = [0; 16];
        Namespace::of(&first).run(|| {
            let client = bound();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send_to(b"first", (LISTED, 9)).unwrap();
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(b"yes", from).unwrap();
            client.recv(&mut [0; 16]).unwrap();
        });
        drop(first);
        let policy = policy(&["203.0.113.2"], &[]);
        let second = PrivateNetwork::create("second", &dir.join("second"), &policy).unwrap();
        assert_eq!(second.address(), address);
        let listed = internet.run(|| UdpSocket::bind((UNLISTED, 9)).unwrap());
        listed.set_read_timeout(Some(PATIENCE)).unwrap();
        Namespace::of(&second).run(|| {
            let client = bound();
            // Neither connects the socket: the refusal of one is no error of the next.
            client.send_to(b"second", (LISTED, 9)).unwrap();
            client.send_to(b"second", (UNLISTED, 9)).unwrap();
        });
        listed.recv(&mut buffer).unwrap();
        server.set_nonblocking(true).unwrap();
        assert_eq!(server.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    });
}

#[test]
fn all_of_it_goes() {
    on_a_host(|_, dir| {
        let path = dir.join("netns");
        let network = PrivateNetwork::create("gone", &path, &Policy::default()).unwrap();
        assert_eq!(remains().len(), 2);
        assert!(path.exists());
        drop(network);
        assert!(remains().is_empty(), "{:?}", remains());
        assert!(!path.exists());
    });
}

#[test]
fn what_a_killed_process_left_binds_nobody_else_and_can_be_removed() {
    on_a_host(|_, dir| {
        let deny_all = Policy { deny_all: true, ..Policy::default() };
        let old = PrivateNetwork::create("old", &dir.join("old"), &deny_all).unwrap();
        let table = dir.join("table");
        fs::write(&table, output("nft", &["list", "table", "inet", "krunctl-old"])).unwrap();
        drop(old);
        // What stays of a process: the interface and the sockets go with it and its namespace.
        output("nft", &["-f", table.to_str().unwrap()]);
        assert!(remains()[0].ends_with("krunctl-old"));
        let new = PrivateNetwork::create("new", &dir.join("new"), &Policy::default()).unwrap();
        assert_eq!(Namespace::of(&new).connect(LISTED, 80).unwrap(), HOST);
        assert_eq!(remains().len(), 2, "{:?}", remains());
        drop(new);
        // One whose namespace somebody still has.
        let left = PrivateNetwork::create("left", &dir.join("left"), &Policy::default()).unwrap();
        std::mem::forget(left);
        PrivateNetwork::remove_left("left").unwrap();
        assert!(remains().is_empty(), "{:?}", remains());
        // There is nothing to remove a second time.
        PrivateNetwork::remove_left("left").unwrap();
    });
}

#[test]
fn a_failure_leaves_nothing_and_no_other_vm_without_rules() {
    on_a_host(|_, dir| {
        let taken = UdpSocket::bind("0.0.0.0:53").unwrap();
        let create = |path: &str| PrivateNetwork::create("failed", &dir.join(path), &Policy::default());
        let error = create("netns").err().unwrap().to_string();
        assert!(error.contains("10.213.0.1:53") && error.contains("DNS server"), "{error}");
        assert!(remains().is_empty() && !dir.join("netns").exists());
        drop(taken);
        let error = create("absent/netns").err().unwrap().to_string();
        assert!(error.contains("absent/netns"), "{error}");
        assert!(remains().is_empty(), "{:?}", remains());
        let network = create("netns").unwrap();
        let before = output("nft", &["list", "ruleset"]);
        let error = create("other").err().unwrap().to_string();
        assert!(error.contains("krunctl-failed"), "{error}");
        assert_eq!(output("nft", &["list", "ruleset"]), before);
        drop(network);
        assert!(remains().is_empty(), "{:?}", remains());
    });
}

#[test]
fn many_are_made_and_removed_at_once() {
    on_a_host(|_, dir| {
        let (round, made) =
            (std::sync::Barrier::new(8), std::sync::Mutex::new(std::collections::HashSet::new()));
        thread::scope(|scope| {
            for name in (0..8).map(|number| format!("many-{number}")) {
                let (round, made) = (&round, &made);
                scope.spawn(move || {
                    round.wait();
                    let network =
                        PrivateNetwork::create(&name, &dir.join(&name), &Policy::default()).unwrap();
                    assert_eq!(Namespace::of(&network).connect(LISTED, 80).unwrap(), HOST);
                    assert!(made.lock().unwrap().insert(network.address()));
                    round.wait();
                });
            }
        });
        assert!(remains().is_empty(), "{:?}", remains());
    });
}

#[test]
fn a_network_of_the_hosts_is_left_alone() {
    on_a_host(|_, dir| {
        ip("addr add 10.213.0.5/29 dev lo");
        let network = PrivateNetwork::create("beside", &dir.join("netns"), &Policy::default()).unwrap();
        assert_eq!(network.address(), Ipv4Addr::new(10, 213, 0, 10));
    });
}
