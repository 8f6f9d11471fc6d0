//! How a datasource's thread is woken.
//!
//! One event descriptor per datasource: whoever has something for the thread rings, and the thread waits for the
//! ring together with whatever descriptor it reads from. Rings while nobody waits are kept, and coalesce.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read, write};
use tokio::sync::Notify;

/// The bell of one datasource.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
    stopped: AtomicBool,
    told: Notify,
}

impl Bell {
    /// A silent bell. Fails when the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd, stopped: AtomicBool::new(false), told: Notify::new() })
    }

    /// Wakes the waiting thread, or the next one that waits.
    pub fn ring(&self) {
        // The only failure is a full counter, which means that it already rings.
        let _ = write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Asks the datasource to end.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.ring();
        self.told.notify_one();
    }

    /// Whether the datasource was asked to end.
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Ends when the datasource was asked to end. Safe to drop while waiting.
    pub async fn stopping(&self) {
        while !self.stopped() {
            self.told.notified().await;
        }
    }

    /// Waits for a ring, for `input` to have something to read (or to be closed), or for `timeout`; `None` waits
    /// for ever. Says whether `input` is ready.
    pub fn wait(&self, input: Option<BorrowedFd<'_>>, timeout: Option<Duration>) -> io::Result<bool> {
        let timeout =
            timeout.map(|wait| Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) });
        let bell = PollFd::new(&self.fd, PollFlags::IN);
        let ready = if let Some(input) = input {
            let mut fds = [bell, PollFd::from_borrowed_fd(input, PollFlags::IN)];
            wait_for(&mut fds, timeout.as_ref())?;
            !fds[1].revents().is_empty()
        } else {
            wait_for(&mut [bell], timeout.as_ref())?;
            false
        };
        // Empty when only the input or the time woke us.
        let _ = read(self.fd.as_fd(), &mut [0u8; 8]);
        Ok(ready)
    }
}

fn wait_for(fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> io::Result<()> {
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_not_lost() {
        let bell = Bell::new().expect("a descriptor is left");
        bell.ring();
        bell.ring();
        assert!(!bell.wait(None, None).expect("poll works"));
        assert!(!bell.wait(None, Some(Duration::ZERO)).expect("poll works"));
        assert!(!bell.stopped());
        bell.stop();
        assert!(!bell.wait(None, None).expect("poll works"));
        assert!(bell.stopped());
    }

    #[test]
    fn input_wakes_too() {
        let bell = Bell::new().expect("a descriptor is left");
        let (reader, mut writer) = io::pipe().expect("a descriptor is left");
        assert!(!bell.wait(Some(reader.as_fd()), Some(Duration::ZERO)).expect("poll works"));
        writer.write_all(b"x").expect("the pipe is open");
        assert!(bell.wait(Some(reader.as_fd()), None).expect("poll works"));
        drop(writer);
        assert!(bell.wait(Some(reader.as_fd()), None).expect("poll works"), "a closed input is ready");
    }
}
