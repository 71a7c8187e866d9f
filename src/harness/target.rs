//! A fuzz target over kernels: what an input stands for, whether the kernel agrees, what it reached, what comes next.
//!
//! An input is text, a [corpus entry](crate::corpus::Entry), or bytes in which something can't be printed: those choose a kernel
//! and are decoded into a small case of it. [`Target::mutate`] always gives text.

use super::{Harness, SetupError};
use crate::backend::{BackendKind, OpenError, Points, Recording};
use crate::case::Case;
use crate::corpus::{Entry, EntryError};
use crate::generate::Space;
use arbitrary::Unstructured;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Kernels under a fuzzer.
pub struct Target {
    subjects: Vec<Subject>,
}

struct Subject {
    harness: Harness,
    /// What bytes are decoded into, and inputs mutated in.
    space: Space,
    points: Points,
    /// The number of its first point among those of all kernels.
    first_point: u32,
}

/// Why an input is none.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InputError {
    /// Text that is no corpus entry.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// Text that names another kernel than those there are.
    #[error("unknown kernel {0:?}, expected one of {1}; ATTNFUZZ_KERNEL names any other")]
    Kernel(String, String),
    /// There is nothing to choose from.
    #[error("there is no kernel to decode the input for")]
    NoKernel,
}

/// What became of an input that the kernel did not agree with.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// It stands for no case.
    #[error(transparent)]
    Input(InputError),
    /// Its case can't be run here, through no fault of the kernel, or not judged; others may be. Says which and why.
    #[error("{0}")]
    Skipped(String),
    /// The kernel fails the case: the whole report, ready to print. The finding is shrunk and saved.
    #[error("{0}")]
    Report(String),
}

/// One mutation in so many is a new case of any kernel.
const FRESH: u32 = 64;

/// Mutations that are tried before the text of one fits.
const TRIES: u32 = 16;

impl Target {
    /// The kernels and the backend that the environment names, see [`Harness::from_env`].
    pub fn from_env(default_store: &str) -> Result<Self, SetupError> {
        Ok(Self::new(Harness::from_env(default_store)?))
    }

    /// `kernel`, or else the kernels that the environment names, on the emulator: to decode inputs as a fuzz target does.
    pub fn decoder(kernel: Option<&str>) -> Result<Self, OpenError> {
        let kernels = kernel.map_or_else(super::kernels_from_env, |kernel| vec![kernel.to_owned()]);
        Ok(Self::new(kernels.iter().map(|kernel| Harness::emulated(kernel)).collect::<Result<_, _>>()?))
    }

    /// These kernels.
    pub fn new(harnesses: Vec<Harness>) -> Self {
        let mut first_point = 0;
        let subject = |harness: Harness| {
            let points = Points::of(&harness.kernel);
            let subject = Subject { space: harness.kernel.small_space(), harness, first_point, points };
            first_point += subject.points.len() as u32;
            subject
        };
        Self { subjects: harnesses.into_iter().map(subject).collect() }
    }

    /// How many points the kernels have together.
    pub fn points(&self) -> usize {
        self.subjects.iter().map(|subject| subject.points.len()).sum()
    }

    /// Whether the backend tells which of them are reached.
    pub fn sees_points(&self) -> bool {
        self.subjects.iter().all(Subject::is_seen)
    }

    /// The kernel and the case of its domain that an input stands for.
    ///
    /// If there is one kernel only, it gets the cases of others too, as near as its domain has them.
    pub fn decode(&self, input: &[u8]) -> Result<(&Harness, Case), InputError> {
        let (subject, case) = self.subject(input)?;
        Ok((&subject.harness, case))
    }

    fn subject(&self, input: &[u8]) -> Result<(&Subject, Case), InputError> {
        let is_text = |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_whitespace() || !c.is_control());
        if let Some(text) = std::str::from_utf8(input).ok().filter(is_text) {
            let entry: Entry = text.parse()?;
            let subject = self.subjects.iter().find(|subject| subject.harness.kernel.name() == entry.kernel);
            let subject = match (subject, &self.subjects[..]) {
                (Some(subject), _) | (None, [subject]) => subject,
                (None, subjects) => {
                    let names: Vec<&str> = subjects.iter().map(|s| s.harness.kernel.name()).collect();
                    return Err(InputError::Kernel(entry.kernel, names.join(", ")));
                }
            };
            return Ok((subject, subject.space.legalize(entry.case.into_parts())));
        }
        let mut bytes = Unstructured::new(input);
        let subject = bytes.choose(&self.subjects).map_err(|_| InputError::NoKernel)?;
        let case = subject.space.arbitrary(&mut bytes).map_err(|_| InputError::NoKernel)?;
        Ok((subject, case))
    }

    /// Judges the case that an input stands for, and hands the numbers of the points that its first run reached to `reached`.
    /// If it fails it is shrunk and saved.
    pub fn run(&self, input: &[u8], mut reached: impl FnMut(u32)) -> Result<(), Failure> {
        let (subject, case) = self.subject(input).map_err(Failure::Input)?;
        if !subject.is_seen() {
            return subject.harness.check_on(&*subject.harness.backend, &case);
        }
        let recording = Recording::new(&subject.points);
        let checked = subject.harness.check_on(&recording, &case);
        recording.take().iter().for_each(|point| reached(subject.first_point + point));
        checked
    }

    /// Makes another input of the first `size` bytes of `data`: one near it, in text. Gives its size, at most `max_size`.
    pub fn mutate(&self, data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(seed));
        for _ in 0..TRIES {
            let input = &data[..size];
            let next = match self.subject(input) {
                Ok((subject, case)) if !rng.next_u32().is_multiple_of(FRESH) => {
                    Some(subject.entry(subject.space.mutate(&case, &mut rng)))
                }
                _ => self.fresh(&mut rng),
            };
            if let Some(written) = next.and_then(|next| write(&next, data, max_size)) {
                return written;
            }
        }
        size.min(max_size)
    }

    /// Puts a case of some fields of one input and some of another into `out`. Gives its size; 0 if there is none.
    pub fn cross(&self, one: &[u8], other: &[u8], out: &mut [u8], seed: u32) -> usize {
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(seed));
        let (Ok((subject, case)), Ok((_, other))) = (self.subject(one), self.subject(other)) else { return 0 };
        let spliced = subject.entry(subject.space.splice(&case, &other, &mut rng));
        let max_size = out.len();
        write(&spliced, out, max_size).unwrap_or(0)
    }

    fn fresh(&self, rng: &mut impl RngCore) -> Option<Entry> {
        let index = rng.next_u32().checked_rem(u32::try_from(self.subjects.len()).ok()?)?;
        let subject = &self.subjects[index as usize];
        Some(subject.entry(subject.space.downsize(&subject.space.draw(rng))))
    }
}

/// Writes an entry to the start of `data`, if that has room for it.
fn write(entry: &Entry, data: &mut [u8], max_size: usize) -> Option<usize> {
    let text = entry.to_string();
    let size = text.len();
    data.get_mut(..size).filter(|_| size <= max_size)?.copy_from_slice(text.as_bytes());
    Some(size)
}

impl Subject {
    fn is_seen(&self) -> bool {
        self.harness.backend.kind() == BackendKind::Emulator
    }

    fn entry(&self, case: Case) -> Entry {
        Entry { kernel: self.harness.kernel.name().into(), case }
    }
}
