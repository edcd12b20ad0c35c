//! Real sockets and clients that behave, misbehave and vanish.
use super::*;
use serde_json::json;
use std::os::unix::net::UnixStream as Plain;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs `daemon` on a listener while `client` runs in a thread of its own.
fn between<D, T: Send + 'static>(
    daemon: impl FnOnce(Listener) -> D,
    client: impl FnOnce(PathBuf) -> T + Send + 'static,
) -> (D::Output, T)
where
    D: Future,
{
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leadville/timesync.sock");
    runtime().block_on(async {
        let (listener, _) = Listener::bind(&path, None).unwrap();
        let client = std::thread::spawn(move || client(path));
        (daemon(listener).await, client.join().unwrap())
    })
}

#[test]
fn a_request_gets_its_reply_and_events_follow() {
    let daemon = |listener: Listener| async move {
        let mut client = listener.accept().await;
        assert_eq!(client.peer().rights, Rights::All, "our own user may");
        assert_eq!(client.peer().pid, std::process::id().cast_signed());
        let request = client.next_line().await.unwrap().unwrap();
        client.send_line(&format!("{{\"echo\":{request}}}")).await.unwrap();
        client.send_line("{\"event\":1}").await.unwrap();
        client.send_line("{\"event\":2}").await.unwrap();
        assert_eq!(client.next_line().await.unwrap(), Some("{\"do\":\"more\"}".to_owned()));
    };
    let ((), events) = between(daemon, |path| {
        let mut daemon = Client::connect(&[PathBuf::from("/nowhere"), path.clone()]).unwrap();
        assert_eq!(daemon.path(), path);
        let reply = daemon.request(&json!({"do": "status"})).unwrap();
        assert_eq!(reply, json!({"echo": {"do": "status"}}));
        daemon.stream.get_mut().write_all(b"{\"do\":\"more\"}\r\n").unwrap();
        daemon.lines().unwrap().map(|l| l.unwrap()["event"].as_i64().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(events, [1, 2]);
}

#[test]
fn a_second_daemon_is_told_of_the_first_and_a_dead_ones_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("timesync.sock");
    runtime().block_on(async {
        let (first, _) = Listener::bind(&path, None).unwrap();
        let e = Listener::bind(&path, None).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::AddrInUse);
        assert!(e.to_string().contains("another leadville-timesync"), "{e}");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        drop(first);
        assert!(!path.exists(), "the socket goes with its daemon");
        drop(blocking::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as a kill -9 leaves it");
        let (again, _) = Listener::bind(&path, None).unwrap();
        // Somebody took the place away: what is there now is not ours to remove.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(again);
        assert!(path.exists());
        let e = Listener::bind(&path, None).unwrap_err();
        assert!(e.to_string().contains("not a socket"), "{e}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    });
}

#[test]
fn of_two_daemons_that_start_together_exactly_one_listens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("timesync.sock");
    for _ in 0..20 {
        drop(blocking::UnixListener::bind(&path).unwrap());
        let starts = [(); 4].map(|()| {
            let path = path.clone();
            std::thread::spawn(move || listen(&path, None).ok())
        });
        let running = starts.map(|s| s.join().unwrap());
        assert_eq!(running.iter().flatten().count(), 1);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_group_that_does_not_exist_is_said_and_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let path = dir.path().join("timesync.sock");
        let (_listener, note) = Listener::bind(&path, Some("no-such-group")).unwrap();
        assert!(note.unwrap().contains("no group no-such-group"));
    });
}

#[test]
fn a_place_that_cannot_hold_a_socket_is_a_sentence() {
    runtime().block_on(async {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        for path in [Path::new("/proc/nowhere/t.sock"), Path::new("/"), &long] {
            let e = Listener::bind(path, None).unwrap_err();
            assert!(e.to_string().starts_with(&path.display().to_string()), "{e}");
        }
    });
}

#[test]
fn lines_that_are_too_long_or_not_text_or_torn_end_the_connection_with_the_reason() {
    for (sent, kind, word) in [
        (vec![b'x'; 1 << 20], io::ErrorKind::InvalidData, "64 kB"),
        (b"{\"do\":\"\xff\xfe\"}\n".to_vec(), io::ErrorKind::InvalidData, "UTF-8"),
    ] {
        let daemon = |listener: Listener| async move {
            let e = listener.accept().await.next_line().await.unwrap_err();
            assert_eq!(e.kind(), kind);
            assert!(e.to_string().contains(word), "{e}");
        };
        between(daemon, move |path| {
            let _ = Plain::connect(path).unwrap().write_all(&sent);
        });
    }
    let daemon = |listener: Listener| async move {
        assert_eq!(listener.accept().await.next_line().await.unwrap(), None, "torn is no request");
    };
    between(daemon, |path| Plain::connect(path).unwrap().write_all(b"{\"do\":").unwrap());
}

#[test]
fn many_lines_at_once_and_lines_in_pieces_are_read_one_by_one() {
    let daemon = |listener: Listener| async move {
        let mut client = listener.accept().await;
        let mut lines = Vec::new();
        loop {
            // Dropped and called again, as in a select.
            match timeout(Duration::from_millis(3), client.next_line()).await {
                Ok(Ok(Some(line))) => lines.push(line),
                Ok(end) => return end.map(|_| lines).unwrap(),
                Err(_) => {}
            }
        }
    };
    let (lines, ()) = between(daemon, |path| {
        let mut client = Plain::connect(path).unwrap();
        client.write_all(b"one\ntwo\n\nthr").unwrap();
        for piece in ["ee", "\nfo", "u", "r\n"] {
            std::thread::sleep(Duration::from_millis(10));
            client.write_all(piece.as_bytes()).unwrap();
        }
    });
    assert_eq!(lines, ["one", "two", "", "three", "four"]);
}

#[test]
fn who_does_not_read_is_dropped_within_a_second() {
    let daemon = |listener: Listener| async move {
        let mut client = listener.accept().await;
        let line = "x".repeat(10_000);
        let before = crate::os::clock::raw_now();
        for sent in 0..1_000 {
            if let Err(e) = client.send_line(&line).await {
                assert_eq!(e.kind(), io::ErrorKind::TimedOut);
                let took = crate::os::clock::raw_now() - before;
                assert!(took < crate::units::Nanos::from_secs(3), "{took}");
                return sent;
            }
        }
        panic!("ten megabytes are kept for who does not read")
    };
    let (done, told) = std::sync::mpsc::channel::<()>();
    let (sent, ()) = between(
        |listener| async move {
            let sent = daemon(listener).await;
            drop(done);
            sent
        },
        move |path| {
            let _silent = Plain::connect(path).unwrap();
            let _ = told.recv();
        },
    );
    assert!(sent > 1, "a few lines fit into the kernel's buffer");
}

#[test]
fn the_sixty_fifth_client_is_sent_away_and_gets_in_when_one_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("timesync.sock");
    runtime().block_on(async {
        let (listener, _) = Listener::bind(&path, None).unwrap();
        let mut clients = Vec::new();
        let mut connections = Vec::new();
        for _ in 0..MOST_CLIENTS {
            clients.push(Plain::connect(&path).unwrap());
            connections.push(listener.accept().await);
        }
        let one_more = Plain::connect(&path).unwrap();
        let short = Duration::from_millis(50);
        assert!(timeout(short, listener.accept()).await.is_err());
        let mut refusal = String::new();
        BufReader::new(one_more).read_line(&mut refusal).unwrap();
        let refusal: Value = serde_json::from_str(&refusal).unwrap();
        assert_eq!(refusal["error"], "too many clients");
        connections.pop();
        clients.push(Plain::connect(&path).unwrap());
        assert!(timeout(short, listener.accept()).await.is_ok());
    });
}

#[test]
fn a_thousand_clients_that_only_connect_leave_room_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("timesync.sock");
    let daemon = std::thread::spawn({
        let path = path.clone();
        move || {
            runtime().block_on(async {
                let (listener, _) = Listener::bind(&path, None).unwrap();
                let mut served = 0;
                while served < 1_001 {
                    let mut client = listener.accept().await;
                    served += 1;
                    if let Ok(Some(line)) = client.next_line().await {
                        client.send_line(&line).await.unwrap();
                    }
                }
            });
        }
    });
    while !path.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    for _ in 0..1_000 {
        drop(Plain::connect(&path).unwrap());
    }
    let reply = Client::connect(&[path]).unwrap().request(&json!({"still": "here"})).unwrap();
    assert_eq!(reply, json!({"still": "here"}));
    daemon.join().unwrap();
}

#[test]
fn without_a_daemon_the_command_says_where_it_looked() {
    let places = [PathBuf::from("/nowhere/a.sock"), PathBuf::from("/nowhere/b.sock")];
    let e = Client::connect(&places).unwrap_err();
    assert!(e.to_string().contains("/nowhere/a.sock and /nowhere/b.sock"), "{e}");
}

#[test]
fn a_daemon_that_talks_nonsense_or_hangs_up_is_an_error_not_a_reply() {
    for answer in ["nonsense\n", "", "{\"half\":"] {
        let daemon = move |listener: Listener| async move {
            let mut client = listener.accept().await;
            client.next_line().await.unwrap();
            client.stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let ((), reply) = between(daemon, |path| {
            Client::connect(&[path]).unwrap().request(&json!({"do": "status"}))
        });
        assert!(reply.is_err(), "{answer:?} became {reply:?}");
    }
}

/// Does `what` as user 12 345 with `group` as the only further group; `None` without the rights.
fn as_somebody<T: Send + 'static>(
    group: u32,
    what: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    // By the bare system calls, which change this thread alone.
    let change = move || {
        // SAFETY: the list is as long as said.
        #[allow(unsafe_code, reason = "libc's setgroups changes every thread")]
        let groups = unsafe { libc::syscall(libc::SYS_setgroups, 1, &raw const group) };
        // SAFETY: no memory is involved.
        #[allow(unsafe_code, reason = "libc's setresgid changes every thread")]
        let gid = unsafe { libc::syscall(libc::SYS_setresgid, 12_345, 12_345, 12_345) };
        // SAFETY: no memory is involved.
        #[allow(unsafe_code, reason = "libc's setresuid changes every thread")]
        let uid = unsafe { libc::syscall(libc::SYS_setresuid, 12_345, 12_345, 12_345) };
        ((groups, gid, uid) == (0, 0, 0)).then(what)
    };
    std::thread::spawn(change).join().unwrap()
}

#[test]
fn only_root_our_user_and_the_group_may_change_things_and_the_page_less() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("timesync.sock");
    runtime().block_on(async {
        let (mut listener, _) = Listener::bind(&path, None).unwrap();
        let _own = Plain::connect(&path).unwrap();
        assert_eq!(listener.accept().await.peer().rights, Rights::All, "our own user");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        listener.rule.gid = Some(54_321);
        let cases: [(Lookup, u32, Rights); 4] = [
            (|| None, 54_321, Rights::All),
            (|| None, 54_322, Rights::Ask),
            (|| Some(12_345), 54_321, Rights::Phone),
            (|| Some(12_346), 54_321, Rights::All),
        ];
        for (page, group, rights) in cases {
            listener.rule.page = page;
            let there = path.clone();
            let Some(_client) = as_somebody(group, || Plain::connect(there).unwrap()) else {
                return eprintln!("no rights to be somebody else: not tested");
            };
            let peer = listener.accept().await.peer();
            let (uid, gid, pid) = (12_345, 12_345, std::process::id().cast_signed());
            assert_eq!(
                peer,
                Peer { uid, gid, pid, rights },
                "with group {group}, page {:?}",
                page()
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        let e = as_somebody(54_322, || Client::connect(&[path]).unwrap_err()).unwrap();
        assert!(e.to_string().contains("sudo adduser") && e.to_string().contains(GROUP), "{e}");
    });
}

#[test]
fn no_name_tells_a_terminal_what_to_do() {
    let said = json!({"servers": [{"name": "a\u{1b}]0;owned\u{7}\u{9b}2J"}], "error": "two\nlines", "offset_us": 1.5});
    let shown = super::printable(said);
    assert_eq!(shown["servers"][0]["name"], "a\u{fffd}]0;owned\u{fffd}\u{fffd}2J");
    assert_eq!((&shown["error"], &shown["offset_us"]), (&json!("two\nlines"), &json!(1.5)));
}
