//! What a worker and its owner say to each other: one line of JSON each.
//!
//! A line of a worker starts with [`MARK`]; what stands on other lines was printed by a driver or a kernel. Numbers in
//! binary64 travel as their bits: JSON has no infinities, and a verdict must not change on its way.

use crate::backend::BackendError;
use crate::case::{Case, ParseError, Relation};
use crate::float::{Dtype, bits};
use crate::oracle::relation::{Checked, Held};
use crate::oracle::{Agreement, Divergence, Examined, Tier, Verdict};
use crate::outcome::{Fault, Output};
use crate::tensor::Buffer;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::{self, BufRead, Read, Write};

/// Starts every line of a worker.
pub(super) const MARK: char = '@';
/// Version of these messages. A worker is usually the same file as its owner, but need not be.
pub(super) const PROTOCOL: u32 = 1;
/// Longest line that is read, in bytes. The longest there are hold outputs.
const MAX_LINE: u64 = 256 << 20;

/// A case to examine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// Counts the questions to one worker.
    pub(super) number: u64,
    /// What [`Kernel::open`](crate::backend::Kernel::open) takes.
    pub(super) kernel: String,
    /// Its content, as [`Kernel::content_hash`](crate::backend::Kernel::content_hash) has it.
    pub(super) content: u64,
    /// The case in one line.
    pub(super) case: String,
    /// What is wanted.
    pub(super) wanted: Wanted,
}

/// What is wanted of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Wanted {
    /// To examine it.
    Examination,
    /// The same, and the output of its first run.
    ExaminationAndOutput,
    /// The output of one run, not judged: the verdict is an agreement on nothing, or the run's fault.
    FirstRun,
}

/// A line of a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Message {
    /// The first: it can be asked.
    Ready {
        /// Of these messages.
        protocol: u32,
        /// What it runs kernels on.
        device: String,
    },
    /// The first and last: there is no device.
    Unavailable(String),
    /// A case was examined.
    Answer(Box<Answer>),
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answer {
    /// Of the question.
    pub(super) number: u64,
    /// Name of its case.
    pub(super) case: String,
    /// What came of it.
    pub(super) examined: Result<Findings, BackendError>,
    /// Why this worker can't be asked any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lost: Option<String>,
}

impl Answer {
    /// Whether the worker can't go on after it.
    pub(super) fn is_last(&self) -> bool {
        self.lost.is_some() || matches!(self.examined, Err(BackendError::Unavailable(_)))
    }

    /// What sort of answer it is: the kind of a fault, the error without what it is about.
    pub(super) fn kind(&self) -> String {
        match &self.examined {
            Ok(Findings { verdict: Verdict::Fault(fault), .. }) => fault.kind.to_string(),
            Ok(_) => "a verdict".into(),
            Err(error) => format!("{:?}", std::mem::discriminant(error)),
        }
    }

    /// What happened, in a line, to one that is the last.
    pub(super) fn what(&self) -> String {
        match (&self.lost, &self.examined) {
            (Some(why), _) => why.clone(),
            (None, Err(error)) => error.to_string(),
            (None, Ok(_)) => "nothing".into(),
        }
    }
}

/// [`Examined`] as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Findings {
    #[serde(with = "VerdictBits")]
    verdict: Verdict,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<OutputHex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closer: Option<Closer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    relation: Option<Related>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Closer {
    case: String,
    #[serde(with = "VerdictBits")]
    verdict: Verdict,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Related {
    relation: Relation,
    #[serde(with = "CheckedBits")]
    checked: Checked,
}

impl Findings {
    pub(super) fn new(examined: Examined, with_output: bool) -> Self {
        Self {
            verdict: examined.verdict,
            output: examined.output.filter(|_| with_output).as_ref().map(OutputHex::new),
            closer: examined.closer.map(|(case, verdict)| Closer { case: case.to_string(), verdict }),
            relation: examined.relation.map(|(relation, checked)| Related { relation, checked }),
        }
    }

    /// # Errors
    /// The case of a closer look is none.
    pub(super) fn examined(self) -> Result<Examined, ParseError> {
        let closer = self.closer.map(|closer| Ok::<_, ParseError>((closer.case.parse::<Case>()?, closer.verdict)));
        Ok(Examined {
            verdict: self.verdict,
            output: self.output.map(OutputHex::output),
            closer: closer.transpose()?,
            relation: self.relation.map(|related| (related.relation, related.checked)),
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Verdict")]
enum VerdictBits {
    Agree(Agreement),
    Diverge(#[serde(with = "DivergenceBits")] Divergence),
    Fault(Fault),
    Skip(String),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Checked")]
enum CheckedBits {
    Holds(Held),
    Broken(#[serde(with = "DivergenceBits")] Divergence),
    Fault(Fault),
    DoesNotApply(Cow<'static, str>),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Divergence")]
struct DivergenceBits {
    tensor: String,
    step: u32,
    at: Vec<u64>,
    #[serde(with = "bits")]
    found: f64,
    #[serde(with = "bits")]
    expected: f64,
    #[serde(with = "bits")]
    low: f64,
    #[serde(with = "bits")]
    high: f64,
    #[serde(with = "bits")]
    ratio: f64,
    tier: Tier,
    wrong: u64,
    elements: u64,
    relation: Option<Relation>,
    approximate: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct OutputHex {
    out: Vec<BufferHex>,
    lse: Vec<BufferHex>,
    k_cache: BufferHex,
    v_cache: BufferHex,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct BufferHex(Dtype, #[serde(with = "hex")] Vec<u8>);

mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    const DIGITS: &[u8; 16] = b"0123456789abcdef";

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let digits = bytes.iter().flat_map(|&b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)]));
        serializer.serialize_str(&digits.collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?));
        let bytes = bytes.collect::<Option<Vec<u8>>>().filter(|_| rest.is_empty());
        bytes.ok_or_else(|| D::Error::custom("expected pairs of hexadecimal digits"))
    }
}

impl OutputHex {
    fn new(output: &Output) -> Self {
        let buffer = |buffer: &Buffer| BufferHex(buffer.dtype(), buffer.bytes().to_vec());
        let all = |buffers: &[Buffer]| buffers.iter().map(buffer).collect();
        Self {
            out: all(&output.out),
            lse: all(&output.lse),
            k_cache: buffer(&output.k_cache),
            v_cache: buffer(&output.v_cache),
        }
    }

    fn output(self) -> Output {
        let buffer = |BufferHex(dtype, bytes)| Buffer::from_bytes(dtype, bytes);
        let all = |buffers: Vec<BufferHex>| buffers.into_iter().map(buffer).collect();
        Output { out: all(self.out), lse: all(self.lse), k_cache: buffer(self.k_cache), v_cache: buffer(self.v_cache) }
    }
}

/// Reads a line, without its end; nothing at the end of the input.
///
/// # Errors
/// The input's, bytes that are no text, and lines longer than any message.
pub(super) fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let length = input.take(MAX_LINE).read_until(b'\n', &mut bytes)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    } else if length as u64 == MAX_LINE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line of more than {MAX_LINE} bytes")));
    }
    // What a kernel printed need not be text, and is only shown.
    Ok((length > 0).then(|| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Writes a message of a worker in one go, on a line of its own whatever was printed before it.
pub(super) fn write_message(output: &mut impl Write, message: &Message) -> io::Result<()> {
    let line = format!("\n{MARK}{}\n", serde_json::to_string(message)?);
    output.write_all(line.as_bytes())?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any number, NaNs with their payloads and infinities too.
    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            Just(f64::NAN),
            Just(f64::INFINITY),
            Just(f64::NEG_INFINITY),
            Just(-0.0),
        ]
    }

    fn divergence() -> impl Strategy<Value = Divergence> {
        let tier = prop_oneof![Just(Tier::Exact), Just(Tier::Det), Just(Tier::Sgn)];
        let relation = prop::option::of(prop::sample::select(&Relation::ALL[..]));
        (prop::array::uniform5(number()), "[ -~\\n\"@]{0,9}", any::<(u32, u64, bool)>(), tier, relation).prop_map(
            |([found, expected, low, high, ratio], tensor, (step, wrong, approximate), tier, relation)| Divergence {
                tensor,
                step,
                at: vec![u64::from(step), wrong],
                found,
                expected,
                low,
                high,
                ratio,
                tier,
                wrong,
                elements: wrong,
                relation,
                approximate,
            },
        )
    }

    fn travelled(findings: Findings) -> Examined {
        let answer = Answer { number: 3, case: "c".into(), examined: Ok(findings), lost: None };
        let mut line = Vec::new();
        write_message(&mut line, &Message::Answer(Box::new(answer))).unwrap();
        let mut lines = &line[..];
        assert_eq!(read_line(&mut lines).unwrap().as_deref(), Some(""));
        let text = read_line(&mut lines).unwrap().unwrap();
        assert_eq!(read_line(&mut lines).unwrap(), None);
        let Ok(Message::Answer(answer)) = serde_json::from_str(text.strip_prefix(MARK).unwrap()) else { panic!() };
        answer.examined.unwrap().examined().unwrap()
    }

    proptest! {
        #[test]
        fn a_verdict_does_not_change_on_its_way(divergence in divergence(), bytes: Vec<u8>, worst in number()) {
            let case: Case = "kv=1 g=2 d=8 past=3 dtype=f32 cache=hnd:4 scale=1 values=normal:0".parse().unwrap();
            let buffer = Buffer::from_bytes(Dtype::F16, bytes);
            let held = Held { elements: 3, equal: 1, worst_ratio: worst };
            let sent = Examined {
                verdict: Verdict::Diverge(divergence.clone()),
                output: Some(Output {
                    out: vec![buffer.clone(); 2],
                    lse: Vec::new(),
                    k_cache: buffer.clone(),
                    v_cache: buffer,
                }),
                closer: Some((case, Verdict::Agree(Agreement { worst_ratio: worst, ..Agreement::default() }))),
                relation: Some((Relation::ALL[0], Checked::Holds(held))),
            };
            let received = travelled(Findings::new(sent.clone(), true));
            // As text, in which NaN is equal to itself, and then as bits.
            prop_assert_eq!(format!("{received:?}"), format!("{sent:?}"));
            let Verdict::Diverge(found) = received.verdict else { panic!() };
            prop_assert_eq!(found.found.to_bits(), divergence.found.to_bits());
            prop_assert!(travelled(Findings::new(sent, false)).output.is_none());
        }
    }

    #[test]
    fn a_line_without_an_end_is_read_and_what_is_no_text_is_shown() {
        let mut lines = &b"a\xff\n\nb"[..];
        let mut next = || read_line(&mut lines).unwrap();
        assert_eq!([next(), next(), next(), next()].map(|l| l.unwrap_or("end".into())), ["a\u{fffd}", "", "b", "end"]);
    }
}
