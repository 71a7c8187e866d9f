//! The one-line form of a Case: what `Debug` prints, what the command line takes, what proptest shows.
//!
//! ```text
//! kv=4 g=7 d=128 past=0,33 dtype=f16 cache=nhd:40 scale=0.088388346 values=normal:42
//! ```
//!
//! | key | meaning | left out when |
//! |---|---|---|
//! | `kv` | KV heads | |
//! | `g` | query heads of a KV head | |
//! | `d` | head_dim | |
//! | `dv` | v_head_dim | same as `d` |
//! | `past` | past length of each request | |
//! | `q` | new tokens of each request in a step, or one number for all | all 1 |
//! | `dtype` | `f32`, `f16`, `bf16` | |
//! | `append` | `no`: the cache holds every key from the start, none is appended | `yes` |
//! | `causal` | `no`: a query sees the keys after its position too | `yes` |
//! | `window` | keys that a query sees at most, up to its own position | there is no window |
//! | `softcap` | cap of the logits | there is none |
//! | `sinks` | `yes`: each query head has a sink | `no` |
//! | `cache` | `hnd` or `nhd`, packed ones with `packed-` before it, then capacity in tokens, then `+` padding elements after each row | padding 0 |
//! | `pages` | page size, then `seed`, `spare` and `shared`, as in `16,seed:3,spare:2,shared:1`; see [`Pages`] | there are no pages; those that are 0 |
//! | `scale` | factor of the logits (shortest decimal that gives the same binary32) | |
//! | `steps` | consecutive calls | 1 |
//! | `knobs` | value of each of the kernel's knobs, as in `num_splits:4,stages:2` | there are none |
//! | `values` | recipe and seed | |
//! | `only` | the elements that keep those values, all others being 0, as in `v0.1.0.0,k0.0.3.0-7`; see [`Only`] | all do |
//! | `poison` | `nan`, `inf`, `huge` | `nan` |
//! | `sched` | schedule seed | 0 |
//! | `view` | what becomes of the values, see [`View`](super::View) | none |
//! | `relation` | a property that is judged too, see [`Relation`](super::Relation) | none |
//!
//! Keys may come in any order, each once.

use super::only::NotOnly;
use super::{
    Cache, CacheOrder, Case, CaseParts, Features, Invalid, KnobName, Knobs, Only, Pages, Poison, Recipe, Request,
    Shape, Storage, Values,
};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Why a line is not a Case.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ParseError {
    /// A word without `=`.
    #[error("expected key=value, found {0:?}")]
    NotAPair(String),
    /// A key that means nothing.
    #[error("unknown key {0:?}, expected one of {keys}", keys = KEYS.join(", "))]
    UnknownKey(String),
    /// A key that came twice.
    #[error("key {0:?} is given twice")]
    Twice(String),
    /// A key that must be there.
    #[error("key {0:?} is missing")]
    Missing(&'static str),
    /// A value that can't be read.
    #[error("{key}: expected {expected}, found {found:?}")]
    Value {
        /// Its key.
        key: &'static str,
        /// What a legal value is.
        expected: String,
        /// The text given.
        found: String,
    },
    /// Every value can be read, but together they are no Case.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

const KEYS: [&str; 23] = [
    "kv", "g", "d", "dv", "past", "q", "append", "causal", "window", "softcap", "sinks", "dtype", "cache", "pages",
    "scale", "steps", "knobs", "values", "only", "poison", "sched", "view", "relation",
];

/// Names a case in files and messages: a hash of its one-line form, 12 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CaseId(u64);

impl Case {
    /// The case's name.
    pub fn id(&self) -> CaseId {
        CaseId(fnv1a(self.to_string().as_bytes()) >> 16)
    }
}

/// 64-bit FNV-1a: short, and the same for ever.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl fmt::Debug for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = &self.shape;
        write!(f, "kv={} g={} d={}", shape.num_kv_heads, shape.q_per_kv, shape.head_dim)?;
        if shape.v_head_dim != shape.head_dim {
            write!(f, " dv={}", shape.v_head_dim)?;
        }
        write!(f, " past={}", join(shape.requests.iter().map(|r| r.past_len)))?;
        let first = shape.requests[0].q_len;
        if shape.requests.iter().any(|r| r.q_len != first) {
            write!(f, " q={}", join(shape.requests.iter().map(|r| r.q_len)))?;
        } else if first != 1 {
            write!(f, " q={first}")?;
        }
        self.features.fmt(f)?;
        let packed = if self.cache.storage == Storage::Packed { "packed-" } else { "" };
        write!(f, " dtype={} cache={packed}{}:{}", self.dtype, self.cache.order, self.cache.capacity)?;
        if self.cache.row_pad != 0 {
            write!(f, "+{}", self.cache.row_pad)?;
        }
        if let Storage::Paged(pages) = self.cache.storage {
            write!(f, " pages={pages}")?;
        }
        write!(f, " scale={}", self.scale)?;
        if self.steps != 1 {
            write!(f, " steps={}", self.steps)?;
        }
        if !self.knobs.is_empty() {
            let knobs: Vec<String> = self.knobs.iter().map(|(name, n)| format!("{name}:{n}")).collect();
            write!(f, " knobs={}", knobs.join(","))?;
        }
        write!(f, " values={}:{}", self.values.recipe, self.values.seed)?;
        if let Some(only) = &self.only {
            write!(f, " only={only}")?;
        }
        if self.poison != Poison::Nan {
            write!(f, " poison={}", self.poison)?;
        }
        if self.schedule_seed != 0 {
            write!(f, " sched={}", self.schedule_seed)?;
        }
        if let Some(view) = self.view {
            write!(f, " view={view}")?;
        }
        if let Some(relation) = self.relation {
            write!(f, " relation={relation}")?;
        }
        Ok(())
    }
}

/// Each with a space before it.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.append {
            f.write_str(" append=no")?;
        }
        if !self.causal {
            f.write_str(" causal=no")?;
        }
        if let Some(window) = self.window {
            write!(f, " window={window}")?;
        }
        if let Some(cap) = self.softcap {
            write!(f, " softcap={cap}")?;
        }
        if self.sinks {
            f.write_str(" sinks=yes")?;
        }
        Ok(())
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.size)?;
        for (name, n) in [("seed", self.seed), ("spare", self.spare), ("shared", self.shared)] {
            if n != 0 {
                write!(f, ",{name}:{n}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Pages {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong =
            || format!("expected SIZE and then seed:N, spare:N and shared:N, like 16,seed:3,spare:2, found {s:?}");
        let mut words = s.split(',');
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        let mut pages = Self::of_size(number(words.next().unwrap_or(""))?);
        let mut seen = Vec::new();
        for word in words {
            let (name, n) = word.split_once(':').ok_or_else(wrong)?;
            let field = match name {
                "seed" => &mut pages.seed,
                "spare" => &mut pages.spare,
                "shared" => &mut pages.shared,
                _ => return Err(wrong()),
            };
            if seen.contains(&name) {
                return Err(wrong());
            }
            seen.push(name);
            *field = number(n)?;
        }
        Ok(pages)
    }
}

fn join(numbers: impl Iterator<Item = u32>) -> String {
    numbers.map(|n| n.to_string()).collect::<Vec<_>>().join(",")
}

impl FromStr for Case {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        let mut fields = Fields::read(line)?;
        let head_dim = fields.number("d")?;
        let past: Vec<u32> = fields.numbers("past")?;
        let q_len = match fields.optional("q") {
            None => vec![1; past.len()],
            Some(text) => match parse_numbers("q", &text)? {
                one if one.len() == 1 => vec![one[0]; past.len()],
                list if list.len() == past.len() => list,
                _ => {
                    return Err(value("q", format!("one number or {}, as many as in past", past.len()), &text));
                }
            },
        };
        let requests = past.iter().zip(q_len).map(|(&past_len, q_len)| Request { past_len, q_len }).collect();
        let parts = CaseParts {
            dtype: fields.parsed("dtype")?,
            scale: fields.scale()?,
            steps: fields.number_or("steps", 1)?,
            poison: fields.parsed_or("poison", Poison::Nan)?,
            schedule_seed: fields.number_or("sched", 0)?,
            shape: Shape {
                num_kv_heads: fields.number("kv")?,
                q_per_kv: fields.number("g")?,
                head_dim,
                v_head_dim: fields.number_or("dv", head_dim)?,
                requests,
            },
            cache: fields.cache()?,
            features: fields.features()?,
            values: fields.values()?,
            only: fields.only()?,
            knobs: fields.knobs()?,
            view: fields.parsed_if("view")?,
            relation: fields.parsed_if("relation")?,
        };
        Ok(Self::new(parts)?)
    }
}

/// The key=value words of a line.
struct Fields(BTreeMap<&'static str, String>);

impl Fields {
    fn read(line: &str) -> Result<Self, ParseError> {
        let mut fields = BTreeMap::new();
        for word in line.split_whitespace() {
            let (key, text) = word.split_once('=').ok_or_else(|| ParseError::NotAPair(word.into()))?;
            let key = KEYS.into_iter().find(|&k| k == key).ok_or_else(|| ParseError::UnknownKey(key.into()))?;
            if fields.insert(key, text.to_owned()).is_some() {
                return Err(ParseError::Twice(key.into()));
            }
        }
        Ok(Self(fields))
    }

    fn optional(&mut self, key: &'static str) -> Option<String> {
        self.0.remove(key)
    }

    fn text(&mut self, key: &'static str) -> Result<String, ParseError> {
        self.optional(key).ok_or(ParseError::Missing(key))
    }

    fn number(&mut self, key: &'static str) -> Result<u32, ParseError> {
        let text = self.text(key)?;
        parse_number(key, &text)
    }

    fn number_or(&mut self, key: &'static str, default: u32) -> Result<u32, ParseError> {
        self.optional(key).map_or(Ok(default), |text| parse_number(key, &text))
    }

    fn numbers(&mut self, key: &'static str) -> Result<Vec<u32>, ParseError> {
        let text = self.text(key)?;
        parse_numbers(key, &text)
    }

    fn parsed<T: FromStr<Err = String>>(&mut self, key: &'static str) -> Result<T, ParseError> {
        let text = self.text(key)?;
        parse(key, &text)
    }

    fn parsed_or<T: FromStr<Err = String>>(&mut self, key: &'static str, default: T) -> Result<T, ParseError> {
        self.optional(key).map_or(Ok(default), |text| parse(key, &text))
    }

    fn parsed_if<T: FromStr<Err = String>>(&mut self, key: &'static str) -> Result<Option<T>, ParseError> {
        self.optional(key).map(|text| parse(key, &text)).transpose()
    }

    fn scale(&mut self) -> Result<f32, ParseError> {
        let text = self.text("scale")?;
        float("scale", &text)
    }

    fn cache(&mut self) -> Result<Cache, ParseError> {
        let text = self.text("cache")?;
        let expected = "ORDER:CAPACITY or ORDER:CAPACITY+PADDING, like nhd:40, hnd:8+3 or packed-nhd:40";
        let wrong = || value("cache", expected.into(), &text);
        let (order, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (capacity, row_pad) = rest.split_once('+').unwrap_or((rest, "0"));
        let (order, packed) = order.strip_prefix("packed-").map_or((order, false), |order| (order, true));
        let storage = match (packed, self.parsed_if("pages")?) {
            (false, None) => Storage::PerRequest,
            (true, None) => Storage::Packed,
            (false, Some(pages)) => Storage::Paged(pages),
            (true, Some(pages)) => return Err(value("pages", "none with a packed cache".into(), &pages.to_string())),
        };
        Ok(Cache {
            order: order.parse().map_err(|_: String| wrong())?,
            capacity: capacity.parse().map_err(|_| wrong())?,
            row_pad: row_pad.parse().map_err(|_| wrong())?,
            storage,
        })
    }

    fn features(&mut self) -> Result<Features, ParseError> {
        Ok(Features {
            append: self.yes_or("append", true)?,
            causal: self.yes_or("causal", true)?,
            window: self.optional("window").map(|text| parse_number("window", &text)).transpose()?,
            softcap: self.optional("softcap").map(|text| float("softcap", &text)).transpose()?,
            sinks: self.yes_or("sinks", false)?,
        })
    }

    fn yes_or(&mut self, key: &'static str, default: bool) -> Result<bool, ParseError> {
        self.optional(key).map_or(Ok(default), |text| match text.as_str() {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err(value(key, "yes or no".into(), &text)),
        })
    }

    fn values(&mut self) -> Result<Values, ParseError> {
        let text = self.text("values")?;
        let (recipe, seed) =
            text.split_once(':').ok_or_else(|| value("values", "RECIPE:SEED, like normal:42".into(), &text))?;
        Ok(Values { recipe: parse::<Recipe>("values", recipe)?, seed: parse_number("values", seed)? })
    }

    fn only(&mut self) -> Result<Option<Only>, ParseError> {
        let text = self.optional("only");
        let wrong = |e: NotOnly| ParseError::Value { key: "only", expected: e.expected, found: e.found };
        text.map(|text| Only::parse(&text).map_err(wrong)).transpose()
    }

    fn knobs(&mut self) -> Result<Knobs, ParseError> {
        let Some(text) = self.optional("knobs") else { return Ok(Knobs::new()) };
        let mut knobs = Knobs::new();
        for word in text.split(',') {
            let (name, n) =
                word.split_once(':').ok_or_else(|| value("knobs", "NAME:VALUE, like num_splits:4".into(), word))?;
            let (name, n) = (parse::<KnobName>("knobs", name)?, parse_number("knobs", n)?);
            if knobs.insert(name, n).is_some() {
                return Err(value("knobs", "each name once".into(), &text));
            }
        }
        Ok(knobs)
    }
}

fn parse<T: FromStr<Err = String>>(key: &'static str, text: &str) -> Result<T, ParseError> {
    text.parse().map_err(|message: String| {
        let expected = message.strip_prefix("expected ").and_then(|m| m.rsplit_once(", found")).map_or("", |m| m.0);
        value(key, expected.into(), text)
    })
}

fn parse_number(key: &'static str, text: &str) -> Result<u32, ParseError> {
    text.parse().map_err(|_| value(key, "a whole number from 0 to 4294967295".into(), text))
}

fn float(key: &'static str, text: &str) -> Result<f32, ParseError> {
    text.parse().map_err(|_| value(key, "a number".into(), text))
}

fn parse_numbers(key: &'static str, text: &str) -> Result<Vec<u32>, ParseError> {
    text.split(',').map(|one| parse_number(key, one)).collect()
}

fn value(key: &'static str, expected: String, found: &str) -> ParseError {
    ParseError::Value { key, expected, found: found.into() }
}

impl FromStr for CacheOrder {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        [Self::Hnd, Self::Nhd]
            .into_iter()
            .find(|o| o.to_string() == s)
            .ok_or_else(|| format!("expected hnd or nhd, found {s:?}"))
    }
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nan => "nan",
            Self::Inf => "inf",
            Self::Huge => "huge",
        })
    }
}

impl FromStr for Poison {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|p| p.to_string() == s)
            .ok_or_else(|| format!("expected nan, inf or huge, found {s:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "kv=4 g=7 d=128 past=0,33 dtype=f16 cache=nhd:40+3 scale=0.088388346 steps=2 values=normal:42";

    #[test]
    fn a_line_prints_back() {
        let case: Case = LINE.parse().unwrap();
        assert_eq!(format!("{case:?}"), LINE);
        assert_eq!(case.scale, crate::case::default_scale(128));
        let full = "kv=1 g=1 d=8 dv=4 past=3,0 q=2,5 dtype=bf16 cache=hnd:9 scale=1 values=mixed:0 poison=huge sched=9 view=request:1 relation=scale-probe";
        assert_eq!(full.parse::<Case>().unwrap().to_string(), full);
    }

    #[test]
    fn features_and_pages_print_back() {
        for words in [
            "past=3,0 q=0,2 append=no causal=no window=5 softcap=30 sinks=yes dtype=f16 cache=packed-nhd:9+8 scale=1",
            "past=3,0 append=no sinks=yes dtype=f16 cache=nhd:9 pages=4,seed:2,spare:3,shared:1 scale=1",
            "past=3,0 window=1 dtype=f16 cache=hnd:9 pages=1 scale=1 steps=2",
        ] {
            let line = format!("kv=2 g=3 d=8 {words} values=flat:0");
            assert_eq!(line.parse::<Case>().unwrap().to_string(), line);
        }
    }

    #[test]
    fn bad_features_say_what_and_where() {
        let error = |words: &str| {
            let line = format!("kv=1 g=1 d=8 past=3 dtype=f32 scale=1 values=flat:0 {words}");
            line.parse::<Case>().unwrap_err().to_string()
        };
        assert_eq!(error("cache=hnd:4 append=maybe"), "append: expected yes or no, found \"maybe\"");
        assert_eq!(error("cache=hnd:4 window=0"), "window: expected at least 1 key, found 0");
        assert_eq!(error("cache=hnd:4 softcap=-1"), "softcap: expected a finite number above 0, found -1");
        assert_eq!(error("cache=hnd:4 softcap=x"), "softcap: expected a number, found \"x\"");
        assert_eq!(error("cache=packed-hnd:4"), "append: expected append=no with a packed cache, found yes");
        assert_eq!(error("cache=hnd:4 append=no steps=2"), "steps: expected 1 if no token is appended, found 2");
        assert_eq!(error("cache=hnd:4 q=0"), "q_len: expected a request with a query token, found 0 for every request");
        assert_eq!(error("cache=hnd:4 pages=0"), "page size: expected 1 to 65536, found 0");
        assert!(error("cache=packed-hnd:4 append=no pages=2").starts_with("pages: expected none with a packed cache"));
        for pages in ["", "x", "4,seed", "4,sed:1", "4,seed:1,seed:1", "4,spare:-1"] {
            assert!(
                error(&format!("cache=hnd:4 pages={pages}")).starts_with("pages: expected SIZE and then "),
                "{pages}"
            );
        }
        assert_eq!(error("cache=hnd:2 append=no"), "capacity: expected at least past_len = 3, found 2");
    }

    #[test]
    fn the_name_of_a_case_never_changes() {
        assert_eq!(LINE.parse::<Case>().unwrap().id().to_string(), "cbd4bc330d4c");
    }

    #[test]
    fn knobs_come_in_the_order_of_their_names() {
        let line = "kv=1 g=1 d=8 past=3 dtype=f32 cache=hnd:4 scale=1 knobs=num_splits:4,stages:2 values=flat:0";
        let case: Case = line.parse().unwrap();
        assert_eq!(case.to_string(), line);
        assert_eq!(line.replace("num_splits:4,stages:2", "stages:2,num_splits:4").parse::<Case>().unwrap(), case);
        let error = |knobs: &str| line.replace("num_splits:4,stages:2", knobs).parse::<Case>().unwrap_err().to_string();
        assert_eq!(error(""), "knobs: expected NAME:VALUE, like num_splits:4, found \"\"");
        assert_eq!(error("num_splits"), "knobs: expected NAME:VALUE, like num_splits:4, found \"num_splits\"");
        assert_eq!(error("a:1,a:1"), "knobs: expected each name once, found \"a:1,a:1\"");
        assert_eq!(error("a:-1"), "knobs: expected a whole number from 0 to 4294967295, found \"-1\"");
        assert!(error("Splits:1").starts_with("knobs: expected a name of at most 32 lower-case letters, "));
        assert!(error(&format!("{}:1", "a".repeat(33))).contains("expected a name of at most 32"));
        let many: Vec<String> = (0..17).map(|i| format!("k{i}:1")).collect();
        assert_eq!(error(&many.join(",")), "number of knobs: expected 0 to 16, found 17");
    }

    #[test]
    fn bad_lines_say_what_and_where() {
        let error = |line: &str| line.parse::<Case>().unwrap_err().to_string();
        assert_eq!(error("kv"), "expected key=value, found \"kv\"");
        assert_eq!(error("d=1 d=2"), "key \"d\" is given twice");
        assert_eq!(error("d=1"), "key \"past\" is missing");
        assert_eq!(
            error(&LINE.replace("kv=4", "kv=x")),
            "kv: expected a whole number from 0 to 4294967295, found \"x\""
        );
        assert_eq!(error(&LINE.replace("f16", "f8")), "dtype: expected a dtype (f32, f16 or bf16), found \"f8\"");
        assert_eq!(
            error(&LINE.replace("nhd:40", "nhd:34")),
            "capacity: expected at least past_len + steps * q_len = 35, found 34"
        );
        assert_eq!(error(&LINE.replace("kv=4", "kv=0")), "num_kv_heads: expected 1 to 1024, found 0");
        assert!(
            error(&LINE.replace("d=128", "batch=2 d=128"))
                .starts_with("unknown key \"batch\", expected one of kv, g, ")
        );
    }
}
