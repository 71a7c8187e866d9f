//! Scopes, register slots, and operands to slots.

use super::{Lowerer, Operand};
use crate::ptx::ast::Variable;
use crate::ptx::error::Error;
use crate::ptx::op::{Condition, Op, Pred, Reg, Special, Wide, Word};
use crate::ptx::program::Constants;
use crate::ptx::types::{Space, Type};
use std::collections::HashMap;

/// Register groups (`%r<5>`) a scope may declare.
const MAX_RANGES: usize = 256;
/// Slots of one file; a warp holds 32 values in each.
const MAX_SLOTS: u32 = 1 << 16;

/// Addresses of functions start here: above null, below every window.
const FUNCTIONS: u64 = 0x100;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Symbol {
    Register(Register),
    /// A `.v2` or `.v4` register; its components have symbols of their own.
    Vector(u32),
    /// A scalar parameter of a call, kept in a register.
    Parameter(Register),
    /// A variable in memory, by its address within its space.
    Memory {
        space: Space,
        address: u64,
    },
    /// The start of dynamic shared memory, known once all static variables are.
    DynamicShared,
    /// A variable of another module.
    Elsewhere,
    Label(u32),
    Targets(Vec<String>),
    /// What the functions of an indirect call return and take.
    Prototype {
        returns: Vec<Shape>,
        params: Vec<Shape>,
    },
}

/// What of a parameter a caller must agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) size_bytes: u64,
    pub(super) is_scalar: bool,
}

impl Shape {
    pub(super) fn of(variable: &Variable) -> Self {
        let element = variable.ty.size_bytes() as u64 * u64::from(variable.vector);
        Self {
            size_bytes: element.saturating_mul(variable.array.unwrap_or(1)),
            is_scalar: variable.array.is_none() && variable.vector == 1,
        }
    }
}

/// A register with its slot and declared width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Register {
    pub(super) slot: Slot,
    pub(super) bits: u8,
}

/// A slot in one of the three files.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    Pred(Pred),
    Word(Word),
    Wide(Wide),
}

/// Names of one `{ }`.
#[derive(Debug, Default)]
pub(super) struct Scope {
    names: HashMap<String, Symbol>,
    ranges: Vec<(String, u64, Type)>,
}

/// Slots handed out so far.
#[derive(Debug, Default)]
pub(super) struct Slots {
    pub(super) words: u32,
    pub(super) wides: u32,
    pub(super) preds: u32,
    pub(super) constants: Constants,
    pub(super) specials: Vec<(Word, Special)>,
    word_constants: HashMap<u32, Word>,
    wide_constants: HashMap<u64, Wide>,
}

impl Slots {
    pub(super) fn word(&mut self) -> Word {
        self.words += 1;
        Word(self.words - 1)
    }

    pub(super) fn wide(&mut self) -> Wide {
        self.wides += 1;
        Wide(self.wides - 1)
    }

    pub(super) fn pred(&mut self) -> Pred {
        self.preds += 1;
        Pred(self.preds - 1)
    }

    pub(super) fn constant32(&mut self, value: u32) -> Word {
        if let Some(word) = self.word_constants.get(&value) {
            return *word;
        }
        let word = self.word();
        self.word_constants.insert(value, word);
        self.constants.words.push((word, value));
        word
    }

    pub(super) fn constant64(&mut self, value: u64) -> Wide {
        if let Some(wide) = self.wide_constants.get(&value) {
            return *wide;
        }
        let wide = self.wide();
        self.wide_constants.insert(value, wide);
        self.constants.wides.push((wide, value));
        wide
    }

    fn special(&mut self, special: Special) -> Word {
        if let Some((word, _)) = self.specials.iter().find(|(_, s)| *s == special) {
            return *word;
        }
        let word = self.word();
        self.specials.push((word, special));
        word
    }

    fn register(&mut self, ty: Type) -> Register {
        let bits = (ty.size_bytes() * 8) as u8;
        match ty {
            Type::Pred => Register { slot: Slot::Pred(self.pred()), bits: 1 },
            _ if bits == 64 => Register { slot: Slot::Wide(self.wide()), bits },
            _ => Register { slot: Slot::Word(self.word()), bits },
        }
    }
}

impl Lowerer<'_> {
    pub(super) fn define(&mut self, name: &str, symbol: Symbol) -> Result<(), Error> {
        let at = self.at;
        match self.scopes.last_mut() {
            Some(scope) if !scope.names.contains_key(name) => {
                scope.names.insert(name.to_owned(), symbol);
                Ok(())
            }
            _ => Err(Error::syntax(at, "a new name", format!("`{name}`, which is already declared in this scope"))),
        }
    }

    pub(super) fn declare_registers(&mut self, variable: &Variable) -> Result<(), Error> {
        let Some(count) = variable.range else {
            for (name, symbol) in self.register_symbols(variable)? {
                self.define(&name, symbol)?;
            }
            return Ok(());
        };
        if variable.vector != 1 {
            return Err(Error::unsupported(self.at, ".reg .v2/.v4", "groups of vector registers"));
        }
        let at = self.at;
        if let Some(scope) = self.scopes.last_mut() {
            if scope.ranges.len() >= MAX_RANGES {
                return Err(Error::TooLarge {
                    at,
                    what: "register groups",
                    limit: MAX_RANGES as u64,
                    found: MAX_RANGES as u64 + 1,
                });
            }
            scope.ranges.push((variable.name.clone(), count, variable.ty));
        }
        Ok(())
    }

    /// A new register under the variable's name; for a vector, one for each component too.
    pub(super) fn register_symbols(&mut self, variable: &Variable) -> Result<Vec<(String, Symbol)>, Error> {
        if variable.vector == 1 {
            return Ok(vec![(variable.name.clone(), Symbol::Register(self.new_register(variable.ty)?))]);
        }
        let mut symbols = vec![(variable.name.clone(), Symbol::Vector(variable.vector))];
        for component in components(&variable.name, variable.vector) {
            symbols.push((component, Symbol::Register(self.new_register(variable.ty)?)));
        }
        Ok(symbols)
    }

    /// An operand with a vector register written as the vector of its components.
    pub(super) fn spread(&mut self, operand: &Operand) -> Result<Operand, Error> {
        if let Operand::Name(name) = operand
            && let Some(Symbol::Vector(count)) = self.lookup(name)?
        {
            return Ok(Operand::Vector(components(name, count).map(Operand::Name).collect()));
        }
        Ok(operand.clone())
    }

    pub(super) fn new_register(&mut self, ty: Type) -> Result<Register, Error> {
        let used = self.slots.words.max(self.slots.wides).max(self.slots.preds);
        if used >= MAX_SLOTS {
            return Err(Error::TooLarge {
                at: self.at,
                what: "registers",
                limit: MAX_SLOTS.into(),
                found: u64::from(used) + 1,
            });
        }
        Ok(self.slots.register(ty))
    }

    /// Looks `name` up from the innermost scope outwards; the caller's scopes stay invisible inside a call.
    pub(super) fn lookup(&mut self, name: &str) -> Result<Option<Symbol>, Error> {
        let own = (self.function_base..self.scopes.len()).rev();
        for index in own.chain(std::iter::once(0)) {
            let Some(scope) = self.scopes.get(index) else {
                continue;
            };
            match scope.names.get(name) {
                Some(Symbol::Elsewhere) => {
                    let detail = format!("`{name}`, a variable of another module");
                    return Err(Error::unsupported(self.at, ".extern", detail));
                }
                Some(symbol) => return Ok(Some(symbol.clone())),
                None => {}
            }
            let in_range = |(prefix, count, _): &&(String, u64, Type)| {
                name.strip_prefix(prefix.as_str()).is_some_and(|digits| {
                    let canonical = digits == "0" || !digits.starts_with('0');
                    canonical
                        && digits.bytes().all(|b| b.is_ascii_digit())
                        && digits.parse::<u64>().is_ok_and(|n| n < *count)
                })
            };
            if let Some((_, _, ty)) = scope.ranges.iter().find(in_range) {
                let register = self.new_register(*ty)?;
                if let Some(scope) = self.scopes.get_mut(index) {
                    scope.names.insert(name.to_owned(), Symbol::Register(register));
                }
                return Ok(Some(Symbol::Register(register)));
            }
        }
        Ok(None)
    }

    pub(super) fn symbol(&mut self, name: &str, what: &'static str) -> Result<Symbol, Error> {
        let at = self.at;
        self.lookup(name)?.ok_or_else(|| Error::UnknownName { at, what, name: name.to_owned() })
    }

    pub(super) fn register(&mut self, name: &str) -> Result<Register, Error> {
        match self.symbol(name, "register")? {
            Symbol::Register(register) => Ok(register),
            _ => Err(Error::syntax(self.at, "a register", format!("`{name}`"))),
        }
    }

    pub(super) fn label(&mut self, name: &str) -> Result<u32, Error> {
        match self.symbol(name, "label")? {
            Symbol::Label(label) => Ok(label),
            _ => Err(Error::syntax(self.at, "a label", format!("`{name}`"))),
        }
    }

    pub(super) fn condition_named(&mut self, name: &str) -> Result<Condition, Error> {
        let register = self.register(name)?;
        match register.slot {
            Slot::Pred(pred) => Ok(Condition { pred, negated: false }),
            _ => self.register_error("a predicate", name, register),
        }
    }

    /// A predicate source, `!p` included. Integer constants 0 and 1 are allowed, as NVRTC writes them.
    pub(super) fn condition(&mut self, operand: &Operand) -> Result<Condition, Error> {
        match operand {
            Operand::Name(name) if name == "%is_explicit_cluster" => self.condition(&Operand::Int(0)),
            Operand::Name(name) => self.condition_named(name),
            Operand::Not(inner) => {
                let inner = self.condition(inner)?;
                Ok(Condition { negated: !inner.negated, ..inner })
            }
            Operand::Int(n) => {
                let pred = self.slots.pred();
                self.slots.constants.preds.push((pred, *n != 0));
                Ok(Condition { pred, negated: false })
            }
            _ => self.operand_error("a predicate", operand),
        }
    }

    pub(super) fn pred_destination(&mut self, operand: &Operand) -> Result<Option<Pred>, Error> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(None),
            Operand::Name(name) => Ok(Some(self.condition_named(name)?.pred)),
            _ => self.operand_error("a predicate", operand),
        }
    }

    /// Destination register of `ty`'s width.
    pub(super) fn destination(&mut self, operand: &Operand, ty: Type) -> Result<Reg, Error> {
        let bits = (ty.size_bytes() * 8) as u8;
        let (reg, found) = self.any_destination(operand, bits)?;
        if found == bits { Ok(reg) } else { self.operand_error(&format!("a {bits}-bit register"), operand) }
    }

    /// Destination register of any width but a predicate, with its width; `_` gets a scratch of `bits`.
    pub(super) fn any_destination(&mut self, operand: &Operand, bits: u8) -> Result<(Reg, u8), Error> {
        let Operand::Name(name) = operand else {
            return self.operand_error("a register", operand);
        };
        if name == "_" {
            let reg = if bits == 64 { Reg::Wide(self.slots.wide()) } else { Reg::Word(self.slots.word()) };
            return Ok((reg, bits));
        }
        let register = self.register(name)?;
        match register.slot {
            Slot::Word(word) => Ok((Reg::Word(word), register.bits)),
            Slot::Wide(wide) => Ok((Reg::Wide(wide), register.bits)),
            Slot::Pred(_) => self.register_error("a register", name, register),
        }
    }

    pub(super) fn word_destination(&mut self, operand: &Operand, ty: Type) -> Result<Word, Error> {
        match self.destination(operand, ty)? {
            Reg::Word(word) => Ok(word),
            Reg::Wide(_) => self.operand_error("a register of at most 32 bits", operand),
        }
    }

    pub(super) fn wide_destination(&mut self, operand: &Operand) -> Result<Wide, Error> {
        match self.destination(operand, Type::B64)? {
            Reg::Wide(wide) => Ok(wide),
            Reg::Word(_) => self.operand_error("a 64-bit register", operand),
        }
    }

    /// Source of exactly `ty`'s width: register, constant, address of a variable, special register.
    pub(super) fn source(&mut self, operand: &Operand, ty: Type) -> Result<Reg, Error> {
        let bits = (ty.size_bytes() * 8) as u8;
        let (reg, found) = self.any_source(operand, ty)?;
        if found == bits { Ok(reg) } else { self.operand_error(&format!("a {bits}-bit operand"), operand) }
    }

    /// Source of `ty`, in a register that may be wider; with the width.
    pub(super) fn any_source(&mut self, operand: &Operand, ty: Type) -> Result<(Reg, u8), Error> {
        let bits = (ty.size_bytes() * 8) as u8;
        match operand {
            Operand::Int(n) if ty == Type::F32 => Ok((Reg::Word(self.slots.constant32(*n as i64 as f32 as u32)), bits)),
            Operand::Int(n) => Ok((self.constant(*n, bits), bits)),
            Operand::F32(v) if bits == 32 => Ok((self.constant(u64::from(*v), bits), bits)),
            Operand::F32(v) if bits == 64 => Ok((self.constant(f64::from(f32::from_bits(*v)).to_bits(), bits), bits)),
            Operand::F64(v) if bits == 64 => Ok((self.constant(*v, bits), bits)),
            Operand::F64(v) if ty == Type::F32 => {
                let value = f64::from_bits(*v) as f32;
                Ok((self.constant(u64::from(value.to_bits()), bits), bits))
            }
            Operand::Offset(name, offset) => Ok((self.address_of(name, *offset, bits)?, bits)),
            Operand::Name(name) => self.named_source(name, bits),
            _ => self.operand_error("a register or a constant", operand),
        }
    }

    pub(super) fn word_source(&mut self, operand: &Operand, ty: Type) -> Result<Word, Error> {
        match self.source(operand, ty)? {
            Reg::Word(word) => Ok(word),
            Reg::Wide(_) => self.operand_error("an operand of at most 32 bits", operand),
        }
    }

    pub(super) fn wide_source(&mut self, operand: &Operand, ty: Type) -> Result<Wide, Error> {
        match self.source(operand, ty)? {
            Reg::Wide(wide) => Ok(wide),
            Reg::Word(_) => self.operand_error("a 64-bit operand", operand),
        }
    }

    fn constant(&mut self, value: u64, bits: u8) -> Reg {
        match bits {
            64 => Reg::Wide(self.slots.constant64(value)),
            32 => Reg::Word(self.slots.constant32(value as u32)),
            _ => Reg::Word(self.slots.constant32(value as u32 & ((1 << bits) - 1))),
        }
    }

    fn named_source(&mut self, name: &str, bits: u8) -> Result<(Reg, u8), Error> {
        if let Some(symbol) = self.lookup(name)? {
            return match symbol {
                Symbol::Register(register) => match register.slot {
                    Slot::Word(word) => Ok((Reg::Word(word), register.bits)),
                    Slot::Wide(wide) => Ok((Reg::Wide(wide), register.bits)),
                    Slot::Pred(_) => self.register_error("a register", name, register),
                },
                Symbol::Memory { .. } | Symbol::DynamicShared => Ok((self.address_of(name, 0, bits)?, bits)),
                _ => Err(Error::syntax(self.at, "a register or a constant", format!("`{name}`"))),
            };
        }
        match self.function_address(name) {
            Some(address) => Ok((self.constant(address, bits), bits)),
            None => self.special(name, bits),
        }
    }

    /// What a pointer to the function `name` holds. It points into no memory.
    pub(super) fn function_address(&self, name: &str) -> Option<u64> {
        let index = self.module.functions.iter().position(|f| !f.is_entry && f.name == name)?;
        Some(FUNCTIONS + 16 * index as u64)
    }

    /// Address of a variable within its own space, as a constant.
    pub(super) fn address_of(&mut self, name: &str, offset: i64, bits: u8) -> Result<Reg, Error> {
        match self.symbol(name, "variable")? {
            Symbol::Memory { address, .. } => Ok(self.constant(address.wrapping_add(offset as u64), bits.max(32))),
            Symbol::DynamicShared if bits == 64 => {
                let wide = self.slots.wide();
                self.layout.dynamic_wides.push((wide, offset));
                Ok(Reg::Wide(wide))
            }
            Symbol::DynamicShared => {
                let word = self.slots.word();
                self.layout.dynamic_words.push((word, offset));
                Ok(Reg::Word(word))
            }
            _ => Err(Error::syntax(self.at, "a variable", format!("`{name}`"))),
        }
    }

    fn special(&mut self, name: &str, bits: u8) -> Result<(Reg, u8), Error> {
        if name == "WARP_SZ" {
            return Ok((self.constant(32, bits), bits));
        }
        if matches!(name, "%clock" | "%clock_hi" | "%clock64" | "%globaltimer" | "%globaltimer_lo" | "%globaltimer_hi")
            || name.strip_prefix("%pm").is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()))
        {
            let d = if bits == 64 { Reg::Wide(self.slots.wide()) } else { Reg::Word(self.slots.word()) };
            self.push_unguarded(Op::Clock { d });
            return Ok((d, bits));
        }
        if let Some(part) = name.strip_prefix("%reserved_smem_offset_") {
            let address = self.reserved_shared()? + if part == "end" { 1 << 10 } else { 0 };
            return Ok((self.constant(address, bits), bits));
        }
        let fixed = match name {
            "%cluster_ctarank" => Some(0),
            "%cluster_nctarank" => Some(1),
            _ if name.starts_with("%cluster_ctaid.") => Some(0),
            _ if name.starts_with("%cluster_nctaid.") => Some(1),
            // Set by drivers, and counters of events: nothing here sets or counts them.
            _ if name.starts_with("%envreg") || name.starts_with("%pm") => Some(0),
            _ => None,
        };
        if let Some(value) = fixed {
            return Ok((self.constant(value, bits), bits));
        }
        let Some((_, special)) = SPECIALS.iter().find(|(n, _)| *n == name) else {
            let what = if name.starts_with('%') { "register" } else { "name" };
            return Err(Error::UnknownName { at: self.at, what, name: name.to_owned() });
        };
        let word = self.slots.special(*special);
        // 16- and 64-bit reads of special registers are legal; their values fit a word.
        if bits == 64 {
            let d = self.slots.wide();
            let high = self.slots.constant32(0);
            self.push_unguarded(Op::PackWords { d, low: word, high });
            return Ok((Reg::Wide(d), 64));
        }
        Ok((Reg::Word(word), bits))
    }
}

/// Names of a vector register's components.
fn components(name: &str, count: u32) -> impl Iterator<Item = String> {
    ["x", "y", "z", "w"].into_iter().take(count as usize).map(move |part| format!("{name}.{part}"))
}

/// An operand in words, for messages.
pub(super) fn describe(operand: &Operand) -> String {
    match operand {
        Operand::Name(name) => format!("`{name}`"),
        Operand::Offset(name, offset) => format!("`{name}+{offset}`"),
        Operand::Int(n) => format!("`{}`", *n as i64),
        Operand::F32(bits) => format!("`{}`", f32::from_bits(*bits)),
        Operand::F64(bits) => format!("`{}`", f64::from_bits(*bits)),
        Operand::Not(inner) => format!("not {}", describe(inner)),
        Operand::Pair(first, second) => format!("{}|{}", describe(first), describe(second)),
        Operand::Vector(items) => format!("a vector of {}", items.len()),
        Operand::List(items) => format!("a list of {}", items.len()),
        Operand::Address { .. } | Operand::Place(_) => "an address".to_owned(),
    }
}

const SPECIALS: [(&str, Special); 32] = [
    ("%tid.x", Special::Tid(0)),
    ("%tid.y", Special::Tid(1)),
    ("%tid.z", Special::Tid(2)),
    ("%ntid.x", Special::Ntid(0)),
    ("%ntid.y", Special::Ntid(1)),
    ("%ntid.z", Special::Ntid(2)),
    ("%ctaid.x", Special::Ctaid(0)),
    ("%ctaid.y", Special::Ctaid(1)),
    ("%ctaid.z", Special::Ctaid(2)),
    ("%nctaid.x", Special::Nctaid(0)),
    ("%nctaid.y", Special::Nctaid(1)),
    ("%nctaid.z", Special::Nctaid(2)),
    // A cluster is one block.
    ("%clusterid.x", Special::Ctaid(0)),
    ("%clusterid.y", Special::Ctaid(1)),
    ("%clusterid.z", Special::Ctaid(2)),
    ("%nclusterid.x", Special::Nctaid(0)),
    ("%nclusterid.y", Special::Nctaid(1)),
    ("%nclusterid.z", Special::Nctaid(2)),
    ("%laneid", Special::LaneId),
    ("%warpid", Special::WarpId),
    ("%nwarpid", Special::NwarpId),
    ("%lanemask_eq", Special::LanemaskEq),
    ("%lanemask_le", Special::LanemaskLe),
    ("%lanemask_lt", Special::LanemaskLt),
    ("%lanemask_ge", Special::LanemaskGe),
    ("%lanemask_gt", Special::LanemaskGt),
    ("%smid", Special::SmId),
    ("%nsmid", Special::NsmId),
    ("%gridid", Special::GridId),
    ("%dynamic_smem_size", Special::DynamicSharedBytes),
    ("%total_smem_size", Special::TotalSharedBytes),
    ("%aggr_smem_size", Special::TotalSharedBytes),
];
