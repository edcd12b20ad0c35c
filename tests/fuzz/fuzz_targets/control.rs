//! Any line as a request on the control socket, from somebody who may change things (first byte
//! 2 of every three), may pass on a phone's time (1), or may not (0). Every answer is an answer, and nobody changes what he may not.
#![no_main]
use leadville_timesync::drift::AlertLimits;
use leadville_timesync::engine::byhand::{Effect, How, RANGE};
use leadville_timesync::os::control::Rights;
use leadville_timesync::state::{Answer, Asked, Request, Shared, Stamp};
use leadville_timesync::tasks::control::{Desk, read};
use leadville_timesync::units::{Nanos, UtcTime};
use libfuzzer_sys::fuzz_target;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tokio::sync::mpsc;

struct Office {
    runtime: tokio::runtime::Runtime,
    inbox: Rc<RefCell<mpsc::Receiver<Asked>>>,
    desk: Desk,
    _record: tempfile::TempDir,
}

thread_local! {
    static OFFICE: Office = Office::open();
}

impl Office {
    fn open() -> Self {
        let record = tempfile::tempdir().expect("a directory");
        std::fs::write(record.path().join("record-2026-11-25"), "1 2 3\n").expect("a day");
        let ms = Nanos::from_millis;
        let limits = AlertLimits { threshold: ms(20), clear_below: ms(15), severe: ms(50) };
        let (shared, inbox) = Shared::new(limits, Nanos::from_secs(300), true);
        let desk = Desk {
            shared,
            started: 0,
            default_lock: Nanos::from_secs(4 * 3_600),
            record: Some(record.path().to_owned()),
            timers: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Self { runtime, inbox: Rc::new(RefCell::new(inbox)), desk, _record: record }
    }
}

/// What the resync task would answer, and whether the question changes anything.
fn resync(request: &Request) -> (Answer, bool) {
    match request {
        Request::Refresh => (Answer::Done, false),
        Request::Stamp(raw) => {
            let utc = UtcTime::from_nanos(raw.as_nanos());
            (Answer::Stamp(Some(Stamp { utc, bound: Nanos::from_millis(1) })), false)
        }
        Request::Lock(name, span) => {
            assert!(!name.is_empty() && name.len() <= 64, "{name:?}");
            assert!(!name.chars().any(char::is_control), "{name:?}");
            let week = Nanos::from_secs(7 * 86_400);
            assert!(*span > Nanos::ZERO && *span <= week, "{span}");
            (Answer::Done, true)
        }
        Request::Unlock(name) => {
            assert!(!name.is_empty() && name.len() <= 64, "{name:?}");
            (Answer::Refused("nobody holds it".into()), true)
        }
        Request::ByHand(word) => {
            let (_, most) = RANGE;
            assert!(word.uncertainty > Nanos::ZERO && word.uncertainty <= most, "{word:?}");
            assert!(matches!(word.how, How::Typed | How::Phone), "{word:?}");
            (Answer::Done, true)
        }
        Request::Weigh(word) => {
            let bound = word.uncertainty;
            let effect = Effect { offset: Nanos::ZERO, bound, moves: true, settled: false };
            (Answer::Weighed(effect), false)
        }
        Request::SyncNow | Request::Step | Request::Reset => (Answer::Done, true),
        Request::Reconfigure(_) => panic!("a client sends no configuration"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&who, line)) = bytes.split_first() else { return };
    let rights = [Rights::Ask, Rights::Phone, Rights::All][usize::from(who % 3)];
    // The socket itself refuses what is not text.
    let Ok(line) = str::from_utf8(line) else { return };
    OFFICE.with(|office| {
        let changed = Cell::new(false);
        let answer = match read(line) {
            Err(refusal) => refusal,
            Ok(request) => office.runtime.block_on(async {
                let mut inbox = office.inbox.borrow_mut();
                let answer = office.desk.answer(&request, rights);
                tokio::pin!(answer);
                loop {
                    tokio::select! {
                        answer = &mut answer => break answer,
                        Some((request, back)) = inbox.recv() => {
                            let (answer, changes) = resync(&request);
                            changed.set(changed.get() || changes);
                            let _ = back.send(answer);
                        }
                    }
                }
            }),
        };
        let may = match rights {
            Rights::All => true,
            Rights::Phone => read(line).is_ok_and(|request| {
                request.get("do").and_then(|verb| verb.as_str()) == Some("set-time")
                    && request.get("how").and_then(|how| how.as_str()) == Some("phone")
            }),
            Rights::Ask => false,
        };
        assert!(may || !changed.get(), "changed by somebody who may not: {line}");
        assert_eq!(answer["v"], 1, "{answer}");
        assert!(answer["reply"].is_string(), "{answer}");
        if answer["reply"] == "error" {
            assert!(answer["error"].as_str().is_some_and(|e| !e.is_empty()), "{answer}");
        }
        let text = answer.to_string();
        assert!(!text.contains('\n') && text.len() < 1 << 20, "{} bytes", text.len());
    });
});
