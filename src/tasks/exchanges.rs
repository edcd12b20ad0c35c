//! The exchanges that are under way. One place waits for all of them, and with the program's one
//! alarm clock: a task and a timer for each took a round of four four more calls of the system, and 24 kB.
use crate::engine::ServerId;
use crate::engine::packet::Outcome;
use crate::units::RawTime;
use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

/// One that has ended: with whom, where that was, and what came of it.
pub type Ended = (ServerId, Option<SocketAddr>, Outcome);

/// An end to patience that somebody else declares.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    ended: Rc<Cell<bool>>,
}

impl Patience {
    /// Waits for the end. Whoever declares it polls this again.
    pub async fn end(self) {
        poll_fn(|_| if self.ended.get() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

struct One {
    server: ServerId,
    address: Option<SocketAddr>,
    /// Nothing is waited for beyond this.
    until: RawTime,
    patience: Patience,
    course: Pin<Box<dyn Future<Output = Outcome>>>,
}

/// All that are under way.
#[derive(Default)]
pub struct Exchanges {
    underway: Vec<One>,
}

impl Exchanges {
    /// One more, until then. It begins when [`Self::ended`] is polled next.
    pub fn begin<F>(
        &mut self,
        server: ServerId,
        address: Option<SocketAddr>,
        until: RawTime,
        course: impl FnOnce(Patience) -> F,
    ) where
        F: Future<Output = Outcome> + 'static,
    {
        let patience = Patience::default();
        let course = Box::pin(course(patience.clone()));
        self.underway.push(One { server, address, until, patience, course });
    }

    /// When patience with the first of them ends.
    #[must_use]
    pub fn next_end(&self) -> Option<RawTime> {
        self.underway.iter().filter(|one| !one.patience.ended.get()).map(|one| one.until).min()
    }

    /// Those that were to answer by now have had their time.
    pub fn expire(&mut self, now: RawTime) {
        for one in self.underway.iter().filter(|one| one.until <= now) {
            one.patience.ended.set(true);
        }
    }

    /// Waits until at least one has ended; all that have are put into `ended`, in the order they
    /// began. May be dropped and called again.
    pub async fn ended(&mut self, ended: &mut Vec<Ended>) {
        poll_fn(|context| {
            self.underway.retain_mut(|one| match one.course.as_mut().poll(context) {
                Poll::Pending => true,
                Poll::Ready(outcome) => {
                    ended.push((one.server, one.address, outcome));
                    false
                }
            });
            if ended.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::packet::{Bogus, Why};
    use std::time::Duration;

    fn at(s: i64) -> RawTime {
        RawTime::from_nanos(s * 1_000_000_000)
    }

    fn silence() -> Outcome {
        Err((Why::Timeout, Bogus::default()))
    }

    #[test]
    fn answers_that_came_together_are_told_together_and_the_silent_one_when_its_time_is_over() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut exchanges = Exchanges::default();
            let refused = || Err((Why::Refused, Bogus::default()));
            exchanges.begin(0, None, at(5), |_| std::future::ready(refused()));
            exchanges.begin(1, None, at(3), async |patience| {
                patience.end().await;
                silence()
            });
            exchanges.begin(2, None, at(4), |_| std::future::ready(refused()));
            let mut ended = Vec::new();
            exchanges.ended(&mut ended).await;
            let who: Vec<ServerId> = ended.drain(..).map(|(id, ..)| id).collect();
            assert_eq!(who, [0, 2]);
            assert_eq!(exchanges.next_end(), Some(at(3)));
            let short = Duration::from_millis(20);
            assert!(tokio::time::timeout(short, exchanges.ended(&mut ended)).await.is_err());
            exchanges.expire(at(2));
            assert!(tokio::time::timeout(short, exchanges.ended(&mut ended)).await.is_err());
            exchanges.expire(at(3));
            assert_eq!(exchanges.next_end(), None, "it would be waited for again and again");
            exchanges.ended(&mut ended).await;
            assert!(matches!(ended[..], [(1, None, Err((Why::Timeout, _)))]), "{ended:?}");
        });
    }
}
