//! Several devices of one kind as one.

use crate::backend::{BackendError, BackendKind, Kernel};
use crate::case::Case;
use crate::oracle::{Examined, Examiner, Unconfirmed};
use crate::outcome::Outcome;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Each case is examined on one of the devices: the one with the fewest cases under way. A device that can't be used any more
/// is left alone, and its cases go to the others.
pub struct Spread {
    kind: BackendKind,
    devices: Vec<Device>,
}

struct Device {
    examiner: Box<dyn Examiner>,
    under_way: AtomicUsize,
    lost: AtomicBool,
}

impl Spread {
    /// These devices, at least one; they say of which kind.
    pub fn new(first: Box<dyn Examiner>, rest: impl IntoIterator<Item = Box<dyn Examiner>>) -> Self {
        let kind = first.kind();
        let device = |examiner| Device { examiner, under_way: AtomicUsize::new(0), lost: AtomicBool::new(false) };
        Self { kind, devices: std::iter::once(first).chain(rest).map(device).collect() }
    }

    /// Asks devices until one can be used; the last error if none can.
    fn on_one<T>(&self, ask: impl Fn(&dyn Examiner) -> Result<T, BackendError>) -> Result<T, BackendError> {
        let mut last = BackendError::Unavailable("no device is left".into());
        loop {
            let usable = self.devices.iter().filter(|device| !device.lost.load(Ordering::Relaxed));
            let Some(device) = usable.min_by_key(|device| device.under_way.load(Ordering::Relaxed)) else {
                return Err(last);
            };
            device.under_way.fetch_add(1, Ordering::Relaxed);
            let answer = ask(&*device.examiner);
            device.under_way.fetch_sub(1, Ordering::Relaxed);
            match answer {
                Err(error @ BackendError::Unavailable(_)) => {
                    device.lost.store(true, Ordering::Relaxed);
                    last = error;
                }
                answer => return answer,
            }
        }
    }
}

impl Examiner for Spread {
    fn kind(&self) -> BackendKind {
        self.kind
    }

    fn describe(&self) -> String {
        self.devices.iter().map(|device| device.examiner.describe()).collect::<Vec<_>>().join(" and ")
    }

    fn examine(&self, kernel: &Kernel, case: &Case) -> Result<Examined, BackendError> {
        self.on_one(|examiner| examiner.examine(kernel, case))
    }

    fn run_first(&self, kernel: &Kernel, case: &Case) -> Result<Outcome, BackendError> {
        self.on_one(|examiner| examiner.run_first(kernel, case))
    }

    fn unconfirmed(&self) -> Unconfirmed {
        self.devices.iter().fold(Unconfirmed::default(), |all, device| all.and(device.examiner.unconfirmed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{Agreement, Verdict};

    /// A device that is lost after so many cases.
    struct Lasting(usize, AtomicUsize);

    impl Examiner for Lasting {
        fn kind(&self) -> BackendKind {
            BackendKind::Emulator
        }

        fn describe(&self) -> String {
            format!("lasts {}", self.0)
        }

        fn examine(&self, _: &Kernel, _: &Case) -> Result<Examined, BackendError> {
            if self.1.fetch_add(1, Ordering::Relaxed) >= self.0 {
                return Err(BackendError::Unavailable(format!("over after {}", self.0)));
            }
            let verdict = Verdict::Agree(Agreement::default());
            Ok(Examined { verdict, output: None, closer: None, relation: None })
        }

        fn run_first(&self, _: &Kernel, _: &Case) -> Result<Outcome, BackendError> {
            Err(BackendError::Unsupported("not asked for".into()))
        }
    }

    #[test]
    fn cases_of_a_lost_device_go_to_the_others() {
        let device = |cases| Box::new(Lasting(cases, AtomicUsize::new(0))) as Box<dyn Examiner>;
        let spread = Spread::new(device(1), [device(3)]);
        let kernel = Kernel::open("gqa_decode").unwrap();
        let case = kernel.space().case_at(0, 0);
        for _ in 0..4 {
            assert!(spread.examine(&kernel, &case).is_ok());
        }
        let Err(BackendError::Unavailable(why)) = spread.examine(&kernel, &case) else {
            panic!("both devices are lost");
        };
        assert_eq!(why, "over after 3");
        assert_eq!(spread.describe(), "lasts 1 and lasts 3");
        // What the kernel can't do is no reason to leave a device alone.
        let other = Spread::new(device(9), []);
        assert!(matches!(other.run_first(&kernel, &case), Err(BackendError::Unsupported(_))));
        assert!(other.examine(&kernel, &case).is_ok());
    }
}
