//! Real datagrams on the loopback: servers that answer well, badly, late, or not at all.
use super::*;
use std::net::UdpSocket as Plain;
use tokio::time::sleep;

/// Starts a server that treats each request as `serve` says; its address.
fn server(serve: impl Fn(&Plain, &[u8], SocketAddr) + Send + 'static) -> SocketAddr {
    serve_at("127.0.0.1:0", serve)
}

fn serve_at(at: &str, serve: impl Fn(&Plain, &[u8], SocketAddr) + Send + 'static) -> SocketAddr {
    let socket = Plain::bind(at).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut request = [0; 600];
        while let Ok((n, from)) = socket.recv_from(&mut request) {
            serve(&socket, &request[..n], from);
        }
    });
    address
}

/// A reply from a perfect server.
fn reply(request: &[u8]) -> [u8; LEN] {
    let mut reply = [0; LEN];
    let now = crate::engine::packet::ntp(clock::read().utc).to_be_bytes();
    (reply[0], reply[1], reply[3]) = (0b00_100_100, 1, 0xec);
    reply[24..32].copy_from_slice(&request[40..48]);
    reply[32..40].copy_from_slice(&now);
    reply[40..48].copy_from_slice(&now);
    reply
}

fn ask_for(server: SocketAddr, ms: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { exchange(server, sleep(Duration::from_millis(ms))).await })
}

fn ask(server: SocketAddr) -> Exchange {
    ask_for(server, 5_000).unwrap()
}

/// What this thread has had of the processor, s.
fn processor_time() -> f64 {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    Duration::from(nix::time::clock_gettime(clock).unwrap()).as_secs_f64()
}

#[test]
fn the_servers_time_lies_between_our_two_stamps_and_they_are_close() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        if at.starts_with('[') && Plain::bind(at).is_err() {
            eprintln!("no IPv6 here: not tested");
            continue;
        }
        let server = serve_at(at, |socket, request, from| {
            socket.send_to(&reply(request), from).unwrap();
        });
        let spans = (0..20).map(|_| {
            let got = ask(server);
            let now = clock::read();
            let there = crate::engine::packet::parse(&got.packet, now.utc).unwrap();
            let there = raw_near(now, there.t2);
            // A microsecond for the server's form of time and for slewing meanwhile.
            let slack = Nanos::new(1_000);
            assert!(
                got.sent <= there + slack && there <= got.received + slack,
                "{got:?} {there:?}"
            );
            got.received - got.sent
        });
        let best = spans.min().unwrap();
        assert!(best < Nanos::from_millis(2), "{best} between sending and receiving");
    }
}

#[test]
fn the_kernel_stamps_both_ends() {
    let server = server(|socket, request, from| {
        socket.send_to(&reply(request), from).unwrap();
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = Socket::connected_to(server).unwrap();
        let stamps = Stamps { socket: &socket, at: 0 };
        let verdict = sntpc::get_time(server, &socket, NtpContext::new(stamps)).await;
        assert!(verdict.is_ok(), "{verdict:?}");
        let course = socket.course();
        let (before, reply) = (course.before.unwrap(), course.reply.as_ref().unwrap());
        let (left, arrived) = (course.left.unwrap(), reply.arrived.unwrap());
        assert!(before.utc <= left && left <= arrived && arrived <= reply.after.utc);
    });
}

#[test]
fn a_request_says_nothing_of_us_and_never_the_same_twice() {
    let (tell, told) = std::sync::mpsc::channel();
    let server = server(move |socket, request, from| {
        tell.send((request.to_vec(), from.port())).unwrap();
        socket.send_to(&reply(request), from).unwrap();
    });
    let mut nonces = std::collections::HashSet::new();
    let mut ports = std::collections::HashSet::new();
    for _ in 0..20 {
        ask(server);
        let (request, port) = told.recv().unwrap();
        assert_eq!((request.len(), request[0]), (LEN, 0b00_100_011));
        assert!(request[1..40].iter().all(|b| *b == 0), "{request:?}");
        nonces.insert(request[40..48].to_vec());
        ports.insert(port);
    }
    assert_eq!(nonces.len(), 20);
    assert!(ports.len() > 15, "ports repeat: {ports:?}");
}

/// What one reply must look like to be refused by sntpc.
#[test]
fn whatever_sntpc_thinks_of_a_reply_its_48_bytes_are_handed_on() {
    type Spoil = fn(&mut [u8; LEN]);
    let spoilt: [(&str, Spoil); 12] = [
        ("kiss of death", |p| p[1] = 0),
        ("leap 3", |p| p[0] |= 0xc0),
        ("stratum 16", |p| p[1] = 16),
        ("stratum 255", |p| p[1] = 255),
        ("mode 5", |p| p[0] = 0b00_100_101),
        ("version 0", |p| p[0] = 0b00_000_100),
        ("version 7", |p| p[0] = 0b00_111_100),
        ("T3 zero", |p| p[40..48].fill(0)),
        ("all times ones", |p| p[32..48].fill(0xff)),
        ("root distance huge", |p| p[4..12].fill(0xff)),
        ("reference later than T3", |p| p[16..24].fill(0xff)),
        ("precision 127", |p| p[3] = 127),
    ];
    for (what, spoil) in spoilt {
        let server = server(move |socket, request, from| {
            let mut packet = reply(request);
            spoil(&mut packet);
            socket.send_to(&packet, from).unwrap();
        });
        let got = ask_for(server, 5_000).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        let mut expected = reply(&got.packet);
        expected[24..48].copy_from_slice(&got.packet[24..48]);
        spoil(&mut expected);
        assert_eq!(got.packet[..16], expected[..16], "{what}");
        assert!(got.sent <= got.received, "{what}");
    }
}

#[test]
fn bogus_datagrams_are_skipped_and_counted_until_the_good_one() {
    let server = server(|socket, request, from| {
        let good = reply(request);
        for length in 0..LEN {
            socket.send_to(&good[..length], from).unwrap();
        }
        for bit in 0..64 {
            let mut wrong = good;
            wrong[24 + bit / 8] ^= 1 << (bit % 8);
            socket.send_to(&wrong, from).unwrap();
        }
        let mut zero = good;
        zero[24..32].fill(0);
        socket.send_to(&zero, from).unwrap();
        socket.send_to(&good, from).unwrap();
        socket.send_to(&good, from).unwrap();
    });
    let got = ask(server);
    assert_eq!(got.bogus, Bogus { wrong_length: 48, wrong_origin: 65, wrong_address: 0 });
}

#[test]
fn only_whole_extension_fields_may_follow_the_48_bytes() {
    for extra in [1, 2, 3, 4, 20, 24, 500, 65_507 - LEN] {
        let server = server(move |socket, request, from| {
            let mut long = reply(request).to_vec();
            long.resize(LEN + extra, 0xa5);
            socket.send_to(&long, from).unwrap();
            let mut sound = reply(request).to_vec();
            sound.extend_from_slice(&[1, 4, 0, 32]);
            sound.resize(LEN + 32, 0);
            socket.send_to(&sound, from).unwrap();
        });
        let got = ask(server);
        let bogus = Bogus { wrong_length: 1, ..Bogus::default() };
        assert_eq!((got.packet[0], got.bogus), (0b00_100_100, bogus), "{extra}");
    }
}

#[test]
fn a_reply_from_another_port_is_no_reply() {
    let other = Plain::bind("127.0.0.1:0").unwrap();
    let server = server(move |_, request, from| {
        other.send_to(&reply(request), from).unwrap();
    });
    assert_eq!(ask_for(server, 200).unwrap_err().0, Why::Timeout);
}

#[test]
fn a_late_reply_is_a_time_out_and_does_not_reach_the_next_exchange() {
    let server = server(|socket, request, from| {
        std::thread::sleep(Duration::from_millis(800));
        socket.send_to(&reply(request), from).unwrap();
    });
    let (why, bogus) = ask_for(server, 60).unwrap_err();
    assert_eq!((why, bogus), (Why::Timeout, Bogus::default()));
    let got = ask(server);
    assert_eq!(got.bogus, Bogus::default());
    assert!(got.received - got.sent >= Nanos::from_millis(790));
}

#[test]
fn a_silent_server_costs_no_processor_time() {
    let server = server(|_, _, _| {});
    let before = processor_time();
    assert_eq!(ask_for(server, 600).unwrap_err().0, Why::Timeout);
    let spent = processor_time() - before;
    assert!(spent < 0.06, "{spent} s of 0.6 s");
}

#[test]
fn a_closed_port_is_known_at_once() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(socket) = Plain::bind(at) else { continue };
        let closed = socket.local_addr().unwrap();
        drop(socket);
        let before = clock::raw_now();
        assert_eq!(ask_for(closed, 5_000).unwrap_err().0, Why::Refused);
        assert!(clock::raw_now() - before < Nanos::from_millis(2_500));
    }
}

#[test]
fn without_a_network_it_says_so() {
    let in_a_thread = || {
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
            return eprintln!("no rights for a network of its own: not tested");
        }
        for server in ["192.0.2.1:123", "[2001:db8::1]:123"] {
            let (why, _) = ask_for(server.parse().unwrap(), 1_000).unwrap_err();
            assert!(matches!(why, Why::Unreachable(_)), "{server}: {why:?}");
        }
    };
    std::thread::spawn(in_a_thread).join().unwrap();
}

#[test]
fn every_error_of_the_socket_has_its_sentence() {
    for errno in [libc::EPERM, libc::EMSGSIZE, libc::EMFILE, libc::ENOBUFS] {
        let Why::Local(text) = why(&io::Error::from_raw_os_error(errno)) else { panic!() };
        assert!(!text.contains("os error"), "{text}");
    }
    for errno in [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENETDOWN, libc::EADDRNOTAVAIL] {
        let Why::Unreachable(text) = why(&io::Error::from_raw_os_error(errno)) else { panic!() };
        assert!(!text.contains("os error"), "{text}");
    }
}

/// 10 000 a second for 1.2 s, good ones among them after 0.8 s: the kernel may drop some.
fn flood(socket: &Plain, request: &[u8], from: SocketAddr) {
    let good = reply(request);
    let mut junk = good;
    let start = clock::raw_now();
    let mut sent = 0_i64;
    loop {
        let age = (clock::raw_now() - start).get();
        if age > 1_200_000_000 {
            return;
        }
        while sent < age / 100_000 {
            sent += 1;
            junk[24..32].copy_from_slice(&sent.to_be_bytes());
            let _ =
                socket.send_to(if sent >= 8_000 && sent % 50 == 0 { &good } else { &junk }, from);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

#[test]
fn the_good_reply_is_found_in_a_flood_that_gets_little_of_the_processor() {
    let mut skipped = 0;
    // Of a machine that is busy otherwise the kernel may drop most of the flood: then once more.
    for _ in 0..5 {
        let before = processor_time();
        let got = ask(server(flood));
        let spent = processor_time() - before;
        let took = (got.received - got.sent).as_secs_f64();
        skipped = got.bogus.wrong_origin;
        eprintln!("{skipped} skipped in {took:.3} s: {:.1} % of a core", spent / took * 100.0);
        assert!(spent / took < 0.2, "{spent} s of {took} s");
        if skipped > 4_000 {
            return;
        }
    }
    panic!("only {skipped} were skipped: no flood");
}

#[test]
fn other_tasks_get_their_turn_during_a_flood() {
    let server = server(|socket, request, from| {
        let mut junk = reply(request);
        junk[24] ^= 1;
        let start = clock::raw_now();
        while clock::raw_now() - start < Nanos::from_millis(700) {
            let _ = socket.send_to(&junk, from);
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let asked = tokio::spawn(exchange(server, sleep(Duration::from_millis(500))));
        let mut turns = 0;
        while !asked.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            turns += 1;
        }
        let (why, bogus) = asked.await.unwrap().unwrap_err();
        assert_eq!(why, Why::Timeout);
        assert!(bogus.wrong_origin > 500 && turns > 15, "{bogus:?}, {turns} turns");
    });
}

#[test]
fn a_clock_set_in_between_is_noticed_and_one_that_is_slewed_is_not() {
    let at = |raw_ms: i64, ahead: Nanos| {
        let raw = RawTime::from_nanos(raw_ms * 1_000_000);
        Reading { raw, utc: UtcTime::from_nanos(raw.as_nanos()) + ahead }
    };
    let start = at(0, Nanos::ZERO);
    assert!(!stepped_between(start, at(20, Nanos::new(20_000))), "1000 ppm");
    assert!(!stepped_between(start, at(2_000, Nanos::from_millis(-200))), "tick -10 %");
    for step in [Nanos::from_millis(3), Nanos::from_millis(-3), Nanos::from_secs(-86_400)] {
        assert!(stepped_between(start, at(20, step)), "{step}");
    }
}

#[test]
fn no_reply_whatever_its_bytes_brings_the_program_down() {
    let server = server(|socket, request, from| {
        let mut noise = [0; LEN];
        getrandom::fill(&mut noise).unwrap();
        // Half of them look right enough to get through sntpc's checks to its arithmetic.
        if noise[47] % 2 == 0 {
            noise[..2].copy_from_slice(&[0b00_100_100, 1]);
            noise[4..8].fill(0);
            noise[8..12].fill(0);
            noise[16..24].fill(0);
        }
        noise[24..32].copy_from_slice(&request[40..48]);
        socket.send_to(&noise, from).unwrap();
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for _ in 0..2_000 {
            let got = exchange(server, sleep(Duration::from_secs(5))).await.unwrap();
            assert!(got.sent <= got.received);
        }
    });
}

/// An exchange of 10 ms by our own readings, with what the kernel says besides.
fn judged(left_us: Option<i64>, arrived_us: Option<i64>) -> Exchange {
    let at = |us: i64| Reading {
        raw: RawTime::from_nanos(7_000_000_000 + us * 1_000),
        utc: UtcTime::from_nanos(1_800_000_000_000_000_000 + us * 1_000),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let socket = Socket::connected_to("127.0.0.1:9".parse().unwrap()).unwrap();
    {
        let mut course = socket.course();
        course.before = Some(at(0));
        course.sent = Some(at(20).raw);
        course.left = left_us.map(|us| at(us).utc);
        let arrived = arrived_us.map(|us| at(us).utc);
        course.reply = Some(Reply { packet: [0; LEN], after: at(10_000), arrived });
    }
    socket.outcome().unwrap()
}

#[test]
fn a_stamp_of_the_kernel_is_used_when_it_lies_within_the_exchange_and_only_then() {
    let micros = |e: &Exchange| {
        let start = RawTime::from_nanos(7_000_000_000);
        ((e.sent - start).get() / 1_000, (e.received - start).get() / 1_000)
    };
    assert_eq!(micros(&judged(Some(35), Some(9_900))), (35, 9_900));
    assert_eq!(micros(&judged(None, None)), (20, 10_000), "a driver without stamps");
    assert_eq!(micros(&judged(Some(-5), Some(10_005))), (20, 10_000), "outside");
    assert_eq!(micros(&judged(Some(0), Some(-3_600_000_000))), (0, 10_000), "an hour ago");
    assert_eq!(micros(&judged(Some(9_000), Some(8_000))), (9_000, 10_000), "arrived before left");
}
