//! Cases that go to the device together.
//!
//! A copy to the device, a copy back and an event take as long for one small case as for eight, and threads that wait for
//! them do nothing. So a thread begins several cases before it asks what came of the first. Each takes a [`Seat`] in the
//! batch that is being put together, with the cases of other threads, writes its tensors into its part of the batch's
//! memory and hands in its launches. The batch is submitted by whoever fills it, or by the first who asks for a result.
//!
//! Nothing here knows the driver: `L` is what a batch is carried out in, `J` what a seat hands in, `R` what comes of
//! submitting.

use super::lock;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How much goes together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Cases of a batch.
    pub(super) seats: usize,
    /// Bytes of a batch. A case that is larger has one of its own.
    pub(super) size_bytes: usize,
    /// What a seat's part starts at a multiple of.
    pub(super) alignment: usize,
}

/// The batches of a device.
pub(super) struct Batches<L, J, R> {
    limits: Limits,
    state: Mutex<State<L, J, R>>,
}

struct State<L, J, R> {
    /// The batch that takes more cases.
    open: Option<Arc<Batch<L, J, R>>>,
    idle: Vec<L>,
    /// Whether lanes can't be used again.
    abandoned: bool,
}

struct Batch<L, J, R> {
    lane: L,
    size_bytes: usize,
    content: Mutex<Content<J, R>>,
    /// Told when all have handed in, and when it was submitted.
    changed: Condvar,
}

struct Content<J, R> {
    /// Bytes that are taken.
    used: usize,
    /// Of each seat, once it has handed in; none of one that gave up.
    jobs: Vec<Option<J>>,
    /// Seats that have not handed in.
    missing: usize,
    /// Whether no more seats are given.
    closed: bool,
    stage: Stage<R>,
}

enum Stage<R> {
    Filling,
    Submitting,
    Submitted(R),
    /// The thread that submitted it has panicked.
    GivenUp,
}

/// A case's place in a batch, and the bytes that are its own until it is dropped.
pub(super) struct Seat<'b, L, J, R> {
    batches: &'b Batches<L, J, R>,
    /// None only while it is dropped.
    batch: Option<Arc<Batch<L, J, R>>>,
    index: usize,
    range: Range<usize>,
    handed_in: bool,
}

impl<L, J, R> Batches<L, J, R> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::new(State { open: None, idle: Vec::new(), abandoned: false }) }
    }

    /// A place for so many bytes. `make` gives a new lane, and `reserve` sees to it that one is ready and holds as many
    /// bytes as it is told.
    pub(super) fn seat<E>(
        &self,
        size_bytes: usize,
        make: impl FnOnce() -> Result<L, E>,
        reserve: impl FnOnce(&mut L, usize) -> Result<(), E>,
    ) -> Result<Seat<'_, L, J, R>, E> {
        let idle = {
            let mut state = lock(&self.state);
            if let Some(seat) = self.join_open(&mut state, size_bytes) {
                return Ok(seat);
            }
            state.idle.pop()
        };
        // Not under the lock: the driver may take its time.
        let mut lane = idle.map_or_else(make, Ok)?;
        let capacity = size_bytes.max(self.limits.size_bytes);
        let reserved = reserve(&mut lane, capacity);
        let mut state = lock(&self.state);
        if let Err(error) = reserved {
            state.give_back(lane);
            return Err(error);
        }
        // Another thread may have opened one meanwhile.
        if let Some(seat) = self.join_open(&mut state, size_bytes) {
            state.give_back(lane);
            return Ok(seat);
        }
        let content = Content { used: 0, jobs: Vec::new(), missing: 0, closed: false, stage: Stage::Filling };
        let batch =
            Arc::new(Batch { lane, size_bytes: capacity, content: Mutex::new(content), changed: Condvar::new() });
        let mut content = lock(&batch.content);
        let seat = self.take_place(&batch, &mut content, 0..size_bytes);
        state.open = (!content.closed).then(|| batch.clone());
        drop(content);
        Ok(seat)
    }

    /// A seat in the open batch, if there is one with room for so many bytes.
    fn join_open(&self, state: &mut State<L, J, R>, size_bytes: usize) -> Option<Seat<'_, L, J, R>> {
        let batch = state.open.take()?;
        let mut content = lock(&batch.content);
        let start = content.used.next_multiple_of(self.limits.alignment);
        let range = start..start + size_bytes;
        if range.end > batch.size_bytes {
            content.closed = true;
            return None;
        }
        let seat = self.take_place(&batch, &mut content, range);
        state.open = (!content.closed).then(|| batch.clone());
        Some(seat)
    }

    fn take_place(
        &self,
        batch: &Arc<Batch<L, J, R>>,
        content: &mut Content<J, R>,
        range: Range<usize>,
    ) -> Seat<'_, L, J, R> {
        let index = content.jobs.len();
        content.used = range.end;
        content.jobs.push(None);
        content.missing += 1;
        content.closed = content.jobs.len() == self.limits.seats || content.used >= batch.size_bytes;
        Seat { batches: self, batch: Some(batch.clone()), index, range, handed_in: false }
    }

    /// From now on no lane is used again or dropped.
    pub(super) fn abandon(&self) {
        let mut state = lock(&self.state);
        state.abandoned = true;
        std::mem::take(&mut state.idle).into_iter().for_each(std::mem::forget);
    }
}

impl<L, J, R> State<L, J, R> {
    fn give_back(&mut self, lane: L) {
        if self.abandoned { std::mem::forget(lane) } else { self.idle.push(lane) }
    }
}

impl<L, J, R: Clone> Seat<'_, L, J, R> {
    /// Hands in its job, and submits the batch if it is the last of a full one. `submit` gets the lane, the number of bytes
    /// in use, and the job of each seat, in order; none of one that has given up.
    pub(super) fn hand_in(&mut self, job: J, submit: impl FnOnce(&L, usize, Vec<Option<J>>) -> R) {
        self.put(Some(job));
        let batch = self.batch();
        let content = lock(&batch.content);
        if content.closed && content.is_complete() {
            drop(batch.submit(content, submit));
        }
    }

    /// What came of submitting the batch; none if that panicked. Submits it if nobody has.
    pub(super) fn submitted(&mut self, submit: impl FnOnce(&L, usize, Vec<Option<J>>) -> R) -> Option<R> {
        let batch = self.batch();
        lock(&self.batches.state).open.take_if(|open| Arc::ptr_eq(open, batch));
        let mut content = lock(&batch.content);
        content.closed = true;
        let pending = |content: &mut Content<J, R>| match content.stage {
            Stage::Filling => content.missing > 0,
            Stage::Submitting => true,
            Stage::Submitted(_) | Stage::GivenUp => false,
        };
        content = batch.changed.wait_while(content, pending).unwrap_or_else(PoisonError::into_inner);
        if content.is_complete() {
            content = batch.submit(content, submit);
        }
        match &content.stage {
            Stage::Submitted(result) => Some(result.clone()),
            _ => None,
        }
    }
}

impl<L, J, R> Seat<'_, L, J, R> {
    fn batch(&self) -> &Arc<Batch<L, J, R>> {
        self.batch.as_ref().unwrap_or_else(|| unreachable!("only a seat that is dropped has no batch"))
    }

    pub(super) fn lane(&self) -> &L {
        &self.batch().lane
    }

    /// The bytes of the batch that are this seat's.
    pub(super) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Its place among the jobs.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    fn put(&mut self, job: Option<J>) {
        self.handed_in = true;
        let batch = self.batch();
        let mut content = lock(&batch.content);
        content.jobs[self.index] = job;
        content.missing -= 1;
        if content.missing == 0 {
            batch.changed.notify_all();
        }
    }
}

impl<J, R> Content<J, R> {
    /// Whether it only waits to be submitted.
    fn is_complete(&self) -> bool {
        self.missing == 0 && matches!(self.stage, Stage::Filling)
    }
}

impl<L, J, R> Batch<L, J, R> {
    /// Submits it without the lock.
    fn submit<'b>(
        &'b self,
        mut content: MutexGuard<'b, Content<J, R>>,
        submit: impl FnOnce(&L, usize, Vec<Option<J>>) -> R,
    ) -> MutexGuard<'b, Content<J, R>> {
        content.stage = Stage::Submitting;
        let (used, jobs) = (content.used, std::mem::take(&mut content.jobs));
        drop(content);
        let mut done = Submission { batch: self, stage: Stage::GivenUp };
        done.stage = Stage::Submitted(submit(&self.lane, used, jobs));
        drop(done);
        lock(&self.content)
    }
}

/// Says how a submission ended, even if by a panic.
struct Submission<'b, L, J, R> {
    batch: &'b Batch<L, J, R>,
    stage: Stage<R>,
}

impl<L, J, R> Drop for Submission<'_, L, J, R> {
    fn drop(&mut self) {
        lock(&self.batch.content).stage = std::mem::replace(&mut self.stage, Stage::GivenUp);
        self.batch.changed.notify_all();
    }
}

impl<L, J, R> Drop for Seat<'_, L, J, R> {
    fn drop(&mut self) {
        if !self.handed_in {
            self.put(None);
        }
        let Some(Batch { lane, content, .. }) = self.batch.take().and_then(Arc::into_inner) else { return };
        if matches!(lock(&content).stage, Stage::GivenUp) {
            // The device may be at work in the lane, and nothing tells when that ends.
            std::mem::forget(lane);
        } else {
            lock(&self.batches.state).give_back(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LIMITS: Limits = Limits { seats: 4, size_bytes: 1024, alignment: 64 };

    /// As many bytes as it holds.
    type Lane = Mutex<usize>;
    type Test = Batches<Lane, usize, usize>;
    type TestSeat<'b> = Seat<'b, Lane, usize, usize>;

    fn seat(batches: &Test, size_bytes: usize) -> TestSeat<'_> {
        let reserve = |lane: &mut Lane, size: usize| {
            let holds = lane.get_mut().unwrap();
            *holds = size.max(*holds);
            Ok::<_, Infallible>(())
        };
        batches.seat(size_bytes, || Ok(Mutex::new(0)), reserve).unwrap()
    }

    fn refuse(_: &Lane, _: usize, _: Vec<Option<usize>>) -> usize {
        panic!("not the time to submit")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_job_is_submitted_once_in_a_part_of_its_own(
            seats in 1..6usize,
            sizes in prop::collection::vec(1..1500usize, 1..80),
            (threads, ahead) in (1..6usize, 1..6usize),
        ) {
            let batches = Test::new(Limits { seats, ..LIMITS });
            let (next, submissions) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let submitted = Mutex::new(vec![None; sizes.len()]);
            let parts = Mutex::new(Vec::new());
            let submit = |lane: &Lane, used: usize, jobs: Vec<Option<usize>>| {
                assert!(jobs.len() <= seats && used <= *lane.lock().unwrap());
                let number = submissions.fetch_add(1, Ordering::SeqCst);
                for job in jobs {
                    assert_eq!(submitted.lock().unwrap()[job.unwrap()].replace(number), None);
                }
                number
            };
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        let mut begun = VecDeque::new();
                        loop {
                            let job = next.fetch_add(1, Ordering::SeqCst);
                            if let Some(&size) = sizes.get(job) {
                                let mut seat = seat(&batches, size);
                                assert_eq!((seat.range().len(), seat.range().start % 64), (size, 0));
                                seat.hand_in(job, submit);
                                begun.push_back((job, seat));
                                if begun.len() < ahead {
                                    continue;
                                }
                            }
                            let Some((job, mut seat)) = begun.pop_front() else { break };
                            let number = seat.submitted(submit).unwrap();
                            assert_eq!(submitted.lock().unwrap()[job], Some(number));
                            parts.lock().unwrap().push((number, seat.range()));
                        }
                    });
                }
            });
            prop_assert!(submitted.into_inner().unwrap().iter().all(Option::is_some));
            let mut parts = parts.into_inner().unwrap();
            parts.sort_by_key(|(number, range)| (*number, range.start));
            for pair in parts.windows(2) {
                prop_assert!(pair[0].0 < pair[1].0 || pair[0].1.end <= pair[1].1.start, "{:?}", pair);
            }
            prop_assert!(batches.state.into_inner().unwrap().open.is_none());
        }
    }

    #[test]
    fn a_full_batch_is_submitted_by_the_last_to_hand_in() {
        let batches = Test::new(LIMITS);
        let mut seats: Vec<_> = (0..4).map(|_| seat(&batches, 100)).collect();
        let mut last = seats.remove(1);
        seats.iter_mut().for_each(|seat| seat.hand_in(seat.index(), refuse));
        last.hand_in(1, |_, used, jobs| {
            assert_eq!((used, jobs), (3 * 128 + 100, vec![Some(0), Some(1), Some(2), Some(3)]));
            9
        });
        seats.push(last);
        assert!(seats.iter_mut().all(|seat| seat.submitted(refuse) == Some(9)));
        // The fifth is of another batch, in another lane.
        assert_eq!(seat(&batches, 100).index(), 0);
        assert_eq!(lock(&batches.state).idle.len(), 0);
        drop(seats);
        assert_eq!(lock(&batches.state).idle.len(), 1);
    }

    #[test]
    fn who_asks_for_a_result_submits_what_is_there() {
        let batches = Test::new(LIMITS);
        let [mut first, mut second] = [seat(&batches, 10), seat(&batches, 10)];
        first.hand_in(1, refuse);
        second.hand_in(2, refuse);
        assert_eq!(second.submitted(|_, _, jobs| jobs.len()), Some(2));
        assert_eq!(first.submitted(refuse), Some(2));
        assert_eq!(seat(&batches, 10).index(), 0);
    }

    #[test]
    fn a_batch_that_is_too_full_takes_no_more_and_a_large_case_is_alone() {
        let batches = Test::new(LIMITS);
        let [first, second, third] = [600, 600, 100].map(|size| seat(&batches, size));
        assert_eq!([&first, &second, &third].map(Seat::index), [0, 0, 1]);
        let large = seat(&batches, 5000);
        assert_eq!((large.index(), *large.lane().lock().unwrap()), (0, 5000));
        // It closed the one before it.
        assert_eq!(seat(&batches, 10).index(), 0);
    }

    #[test]
    fn a_seat_that_gives_up_harms_no_other() {
        let batches = Test::new(LIMITS);
        let [mut first, second, mut third] = [(); 3].map(|()| seat(&batches, 10));
        first.hand_in(1, refuse);
        third.hand_in(3, refuse);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| first.submitted(|_, _, jobs| jobs.iter().flatten().sum()));
            drop(second);
            assert_eq!(waiting.join().unwrap(), Some(4));
        });
        assert_eq!(third.submitted(refuse), Some(4));
    }

    #[test]
    fn nobody_waits_for_a_submission_that_panics_and_its_lane_is_not_used_again() {
        let batches = Test::new(LIMITS);
        let [mut first, mut second] = [seat(&batches, 10), seat(&batches, 10)];
        first.hand_in(1, refuse);
        second.hand_in(2, refuse);
        assert!(catch_unwind(AssertUnwindSafe(|| first.submitted(|_, _, _| panic!("on purpose")))).is_err());
        assert_eq!((second.submitted(refuse), first.submitted(refuse)), (None, None));
        drop([first, second]);
        assert!(lock(&batches.state).idle.is_empty());
        let mut next = seat(&batches, 10);
        next.hand_in(3, refuse);
        assert_eq!(next.submitted(|_, _, jobs| jobs.len()), Some(1));
    }

    #[test]
    fn a_lane_that_can_not_be_made_or_grown_is_an_error_of_one_case() {
        let batches = Test::new(LIMITS);
        assert!(batches.seat(10, || Err("no memory"), |_, _| Ok(())).is_err());
        assert!(batches.seat(10, || Ok(Mutex::new(0)), |_, _| Err("no memory")).is_err());
        assert_eq!(lock(&batches.state).idle.len(), 1);
        assert_eq!(seat(&batches, 10).index(), 0);
    }

    #[test]
    fn an_abandoned_lane_is_neither_used_nor_dropped() {
        let batches = Batches::<Arc<()>, (), ()>::new(Limits { seats: 1, ..LIMITS });
        let lane = Arc::new(());
        let take = || batches.seat(10, || Ok::<_, Infallible>(lane.clone()), |_, _| Ok(())).unwrap();
        drop(take());
        assert_eq!(Arc::strong_count(&lane), 2);
        let held = [take(), take()];
        assert_eq!(Arc::strong_count(&lane), 3);
        batches.abandon();
        drop(held);
        assert_eq!(Arc::strong_count(&lane), 3);
        drop(take());
        assert_eq!(Arc::strong_count(&lane), 4);
    }
}
