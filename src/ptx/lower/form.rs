//! An instruction's modifiers, consumed one by one so that none goes unnoticed.

use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::error::Error;
use crate::ptx::op::{FloatMode, HalfMode, Rounding};
use crate::ptx::types::Type;

/// One instruction being matched.
pub(super) struct Form<'i> {
    instruction: &'i Instruction,
    left: Vec<&'i str>,
}

impl<'i> Form<'i> {
    pub(super) fn new(instruction: &'i Instruction) -> Self {
        Self { instruction, left: instruction.modifiers.iter().map(String::as_str).collect() }
    }

    pub(super) fn opcode(&self) -> &'i str {
        &self.instruction.opcode
    }

    pub(super) fn operands(&self) -> &'i [Operand] {
        &self.instruction.operands
    }

    /// Takes `modifier` if it is there.
    pub(super) fn has(&mut self, modifier: &str) -> bool {
        match self.left.iter().position(|m| *m == modifier) {
            Some(i) => {
                self.left.remove(i);
                true
            }
            None => false,
        }
    }

    /// Takes the first of `choices` that is there.
    pub(super) fn choice<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        choices.iter().find(|(name, _)| self.has(name)).map(|(_, value)| *value)
    }

    /// Takes the first modifier that is among `choices`.
    pub(super) fn next<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        let known = |m: &&str| choices.iter().find(|(name, _)| name == m).map(|(_, value)| *value);
        let (i, value) = self.left.iter().enumerate().find_map(|(i, m)| known(m).map(|v| (i, v)))?;
        self.left.remove(i);
        Some(value)
    }

    /// Whether one of `names` is there; takes nothing.
    pub(super) fn shows(&self, names: &[&str]) -> bool {
        self.left.iter().any(|m| names.contains(m))
    }

    /// Takes every modifier for which `known` holds.
    pub(super) fn ignore(&mut self, known: impl Fn(&str) -> bool) {
        self.left.retain(|m| !known(m));
    }

    /// Takes the first modifier that is a type.
    pub(super) fn ty(&mut self) -> Result<Type, Error> {
        let found = self.left.iter().enumerate().find_map(|(i, m)| Type::from_name(m).map(|t| (i, t)));
        match found {
            Some((i, ty)) => {
                self.left.remove(i);
                Ok(ty)
            }
            None => Err(self.unsupported("no type that this program knows")),
        }
    }

    /// Takes `.vN` and the type of its elements; a `.b128` is two of 64 bits.
    pub(super) fn vector_of(&mut self) -> Result<(u8, Type), Error> {
        let elements = self.choice(&[("v2", 2), ("v4", 4), ("v8", 8)]);
        if elements.is_none() && self.has("b128") {
            return Ok((2, Type::B64));
        }
        Ok((elements.unwrap_or(1), self.ty()?))
    }

    /// Fails if a modifier is left over.
    pub(super) fn done(&self) -> Result<(), Error> {
        match self.left.first() {
            None => Ok(()),
            Some(left) => Err(self.unsupported(&format!("modifier `.{left}`"))),
        }
    }

    /// `N` operands, neither more nor fewer.
    pub(super) fn exactly<const N: usize>(&self) -> Result<&'i [Operand; N], Error> {
        self.operands().try_into().map_err(|_| {
            Error::syntax(self.instruction.at, format!("{N} operands"), format!("{}", self.operands().len()))
        })
    }

    pub(super) fn unsupported(&self, detail: &str) -> Error {
        Error::unsupported(self.instruction.at, self.instruction.full_name(), detail)
    }

    pub(super) fn rounding(&mut self) -> Option<Rounding> {
        self.choice(&[
            ("rn", Rounding::Nearest),
            ("rz", Rounding::Zero),
            ("rm", Rounding::Down),
            ("rp", Rounding::Up),
            ("rna", Rounding::NearestAway),
        ])
    }

    pub(super) fn float_mode(&mut self) -> FloatMode {
        FloatMode { rounding: self.rounding().unwrap_or(Rounding::Nearest), ftz: self.has("ftz"), sat: self.has("sat") }
    }

    /// Mode of a half-precision instruction of type `ty`, which must be f16, f16x2, bf16 or bf16x2.
    pub(super) fn half_mode(&mut self, ty: Type) -> Result<HalfMode, Error> {
        if self.rounding().is_some_and(|r| r != Rounding::Nearest) {
            return Err(self.unsupported("rounding of halves other than .rn"));
        }
        Ok(HalfMode {
            bf16: matches!(ty, Type::Bf16 | Type::Bf16x2),
            packed: matches!(ty, Type::F16x2 | Type::Bf16x2),
            ftz: self.has("ftz"),
            sat: self.has("sat"),
            relu: self.has("relu"),
        })
    }
}
