//! The machine that a daemon runs on: the real one, or a simulated one that moves in real time.
use super::exchanges::Patience;
use crate::config::Config;
use crate::engine::ServerId;
use crate::engine::discipline::{Correction, KernelStatus};
use crate::engine::packet::{Bogus, Exchange, Outcome, Why};
use crate::os::clock::{self, KernelClock};
use crate::os::wake::{Wake, Woken};
use crate::os::{ntp, thermal};
use crate::sim;
use crate::units::{Nanos, Ppm, RawTime, Reading};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Clock, servers and thermometer.
pub enum World {
    /// This machine.
    Real(Machine),
    /// A simulated crystal and embedded servers.
    Simulated(SimHost),
}

/// This machine.
pub struct Machine {
    clock: KernelClock,
    wake: Wake,
    sensor: Option<PathBuf>,
}

/// The simulated world, its true time tied to ours.
#[derive(Clone)]
pub struct SimHost {
    world: Arc<Mutex<sim::World>>,
    zero: i64,
}

impl SimHost {
    fn now(&self) -> MutexGuard<'_, sim::World> {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = clock::monotonic_now() - self.zero;
        world.advance(elapsed);
        world
    }

    async fn exchange(&self, server: ServerId, patience: Patience) -> Outcome {
        let (flight, wait) = {
            let mut world = self.now();
            if server >= world.servers() {
                return Err((Why::NoAddress, Bogus::default()));
            }
            let flight = world.ask(server);
            let wait =
                flight.lands.map(|at| Duration::from_nanos((at - world.now()).max(0) as u64));
            (flight, wait)
        };
        let landed = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = patience.end() => return Err((Why::Timeout, Bogus::default())),
            () = landed => {}
        }
        // The timer's lateness is the host's, not the network's: land at the simulated instant.
        let world = self.now();
        let late = world.now() - flight.lands.unwrap_or(world.now());
        let back = world.land(&flight);
        Ok(Exchange {
            packet: back.packet,
            sent: back.sent,
            received: back.received - Nanos::new(late),
            bogus: Bogus::default(),
        })
    }
}

/// Asks servers; cheap to copy into a task.
#[derive(Clone)]
pub enum Asker {
    /// Over the network.
    Network,
    /// In the simulated world.
    Simulated(SimHost),
}

impl Asker {
    /// One exchange with one server.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn exchange(
        &self,
        server: ServerId,
        address: SocketAddr,
        patience: Patience,
    ) -> Outcome {
        match self {
            Self::Network => ntp::exchange(address, patience.end()).await,
            Self::Simulated(host) => host.exchange(server, patience).await,
        }
    }
}

impl World {
    /// This machine; the sentence says why its clock is only watched.
    #[must_use]
    pub fn real(config: &Config) -> (Self, Option<String>) {
        let (clock, why) = KernelClock::open(config.clock.steer);
        let sensor = config.thermal.enabled.then(|| config.thermal.sensor.clone());
        (Self::Real(Machine { clock, wake: Wake::new(), sensor }), why)
    }

    /// A simulated machine whose true time is this machine's time.
    #[must_use]
    pub fn simulated(mut scenario: sim::Scenario, seed: u64) -> Self {
        scenario.start = clock::read().utc;
        let world = Arc::new(Mutex::new(sim::World::new(&scenario, seed)));
        Self::Simulated(SimHost { world, zero: clock::monotonic_now() })
    }

    /// Both clocks.
    #[must_use]
    pub fn read(&self) -> Reading {
        match self {
            Self::Real(_) => clock::read(),
            Self::Simulated(host) => {
                let world = host.now();
                // The steered clock moves with the raw one; both are of the same instant.
                world.reading()
            }
        }
    }

    /// Whether the clock may be corrected.
    #[must_use]
    pub fn can_steer(&self) -> bool {
        match self {
            Self::Real(m) => m.clock.can_steer(),
            Self::Simulated(_) => true,
        }
    }

    /// Makes the clock ours: what another program left in the kernel goes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take_over(&mut self, frequency: Ppm) -> io::Result<()> {
        match self {
            Self::Real(m) if m.clock.can_steer() => m.clock.take_over(frequency),
            Self::Real(_) => Ok(()),
            Self::Simulated(host) => {
                host.now().clock().set_frequency(frequency);
                Ok(())
            }
        }
    }

    /// Leaves the bare learned frequency behind.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn leave(&mut self, frequency: Ppm) -> io::Result<()> {
        match self {
            Self::Real(m) if m.clock.can_steer() => m.clock.leave_bare(frequency),
            _ => Ok(()),
        }
    }

    /// Corrects the clock.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn apply(&mut self, correction: Correction) -> io::Result<()> {
        match self {
            Self::Real(m) => m.clock.apply(correction),
            Self::Simulated(host) => {
                let mut world = host.now();
                match correction {
                    Correction::Step(by) => world.clock().step(by),
                    Correction::Slew(by) => world.clock().slew(by),
                    Correction::Frequency(f) => world.clock().set_frequency(f),
                }
                Ok(())
            }
        }
    }

    /// Tells the kernel what its clock is worth.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn publish(&mut self, status: &KernelStatus) -> io::Result<()> {
        match self {
            Self::Real(m) if m.clock.can_steer() => m.clock.publish(status),
            _ => Ok(()),
        }
    }

    /// The frequency that the kernel runs at, if that can be asked.
    #[must_use]
    pub fn frequency(&self) -> Option<Ppm> {
        match self {
            Self::Real(m) => m.clock.frequency().ok(),
            Self::Simulated(host) => Some(host.now().clock().frequency()),
        }
    }

    /// The processor's temperature, °C.
    #[must_use]
    pub fn temperature(&self) -> Option<f64> {
        match self {
            Self::Real(m) => m.sensor.as_deref().and_then(thermal::read_celsius_from),
            Self::Simulated(host) => host.now().thermometer(),
        }
    }

    /// How long the machine has slept since boot.
    #[must_use]
    pub fn slept(&self) -> Nanos {
        match self {
            Self::Real(_) => clock::suspended(),
            Self::Simulated(_) => Nanos::ZERO,
        }
    }

    /// Asks servers.
    #[must_use]
    pub fn asker(&self) -> Asker {
        match self {
            Self::Real(_) => Asker::Network,
            Self::Simulated(host) => Asker::Simulated(host.clone()),
        }
    }

    /// Waits until the raw clock shows `when`, or the clock is set by somebody.
    pub async fn until(&mut self, when: RawTime) -> Woken {
        match self {
            Self::Real(m) => m.wake.until(Some(when)).await,
            Self::Simulated(host) => {
                let wait = {
                    let world = host.now();
                    world.when(when) - world.now()
                };
                tokio::time::sleep(Duration::from_nanos(wait.max(0) as u64)).await;
                Woken::Due
            }
        }
    }
}
