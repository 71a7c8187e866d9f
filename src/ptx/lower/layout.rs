//! Where variables live: kernel parameters, module globals and constants, shared memory, the local frame.

use super::names::{Slots, Symbol};
use super::{Function, Lowerer};
use crate::ptx::ast::{Initial, Variable};
use crate::ptx::error::Error;
use crate::ptx::op::{Op, Wide, Word};
use crate::ptx::program::{CONST_WINDOW, Global, LOCAL_WINDOW, MODULE_GLOBALS, Param, SHARED_WINDOW, SharedVariable};
use crate::ptx::types::Space;
use std::collections::HashMap;

/// Bytes of all variables of one space; more is refused.
const MAX_SPACE_BYTES: u64 = 1 << 26;
/// Unmapped bytes between module globals, so that one can't be reached through another.
const GLOBAL_GAP: u64 = 1 << 16;
/// The same between shared variables. It counts towards no limit.
const SHARED_GAP: u64 = 1 << 10;

/// Name and size of the reserved shared memory.
const RESERVED_SHARED: &str = "reserved shared memory";
const RESERVED_BYTES: u64 = 1 << 10;

/// Bytes for `alloca`, and what they start at a multiple of.
const STACK_BYTES: usize = 1 << 14;
const STACK_ALIGN: usize = 16;

/// Running totals of each space.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Bytes of shared variables, side by side.
    pub(super) shared_bytes: usize,
    /// Where the last of them ends, with gaps between; then, where dynamic shared memory starts.
    pub(super) shared_end: usize,
    pub(super) local_bytes: usize,
    pub(super) globals: Vec<Global>,
    pub(super) shared: Vec<SharedVariable>,
    /// Slots that hold the start of dynamic shared memory plus an offset.
    pub(super) dynamic_words: Vec<(Word, i64)>,
    pub(super) dynamic_wides: Vec<(Wide, i64)>,
    dynamic_align: u64,
    /// The slot that holds where the stack starts, if there is one.
    stack_start: Option<Wide>,
    /// Static variables placed so far, by where they are declared.
    statics: HashMap<*const Variable, Symbol>,
    /// Bytes of module variables, and where the next one goes.
    module_bytes: u64,
    next_global: u64,
    next_const: u64,
}

impl Layout {
    /// Places dynamic shared memory after the static variables.
    pub(super) fn finish(&mut self, slots: &mut Slots) {
        let align = self.dynamic_align.max(1) as usize;
        if !self.dynamic_words.is_empty() || !self.dynamic_wides.is_empty() {
            self.shared_bytes = self.shared_bytes.next_multiple_of(align);
            if !self.shared.is_empty() {
                self.shared_end = (self.shared_end + SHARED_GAP as usize).next_multiple_of(align);
            }
        }
        if let Some(start) = self.stack_start {
            let from = self.local_bytes.next_multiple_of(STACK_ALIGN);
            slots.constants.wides.push((start, from as u64));
            self.local_bytes = from + STACK_BYTES;
        }
        let base = self.shared_end as u64;
        for (word, offset) in &self.dynamic_words {
            slots.constants.words.push((*word, base.wrapping_add(*offset as u64) as u32));
        }
        for (wide, offset) in &self.dynamic_wides {
            slots.constants.wides.push((*wide, base.wrapping_add(*offset as u64)));
        }
    }
}

impl Lowerer<'_> {
    /// The parameter block of a kernel: names, offsets, total size.
    pub(super) fn entry_params(&mut self, function: &Function) -> Result<(Vec<Param>, usize), Error> {
        self.scopes.push(super::Scope::default());
        let mut params = Vec::new();
        let mut offset = 0;
        for variable in &function.params {
            self.at = variable.at;
            let (size, align) = self.size_and_align(variable)?;
            offset = u64::next_multiple_of(offset, align);
            self.define(&variable.name, Symbol::Memory { space: Space::Param, address: offset })?;
            params.push(Param {
                name: variable.name.clone(),
                ty: variable.ty,
                offset: offset as usize,
                size_bytes: size as usize,
                align: align as usize,
            });
            offset += size;
        }
        Ok((params, offset as usize))
    }

    /// Declares the module's variables in the outermost scope.
    pub(super) fn module_variables(&mut self) -> Result<(), Error> {
        let module = self.module;
        let inner = self.scopes.split_off(1);
        for variable in &module.variables {
            self.at = variable.at;
            self.declare(variable)?;
        }
        // Initialisers may name any variable, so they are evaluated once all have addresses.
        let with_initial = module.variables.iter().filter(|v| !v.initial.is_empty());
        for variable in with_initial {
            self.at = variable.at;
            let bytes = self.initial_bytes(variable)?;
            if let Some(global) = self.layout.globals.iter_mut().find(|g| g.name == variable.name) {
                global.bytes.splice(..bytes.len().min(global.bytes.len()), bytes);
            }
        }
        self.scopes.extend(inner);
        Ok(())
    }

    /// Declares one variable in the current scope.
    pub(super) fn declare(&mut self, variable: &Variable) -> Result<(), Error> {
        // A function's static variables are the same ones wherever it is inlined.
        let is_static = matches!(variable.space, Space::Shared | Space::Global | Space::Const);
        if is_static && let Some(symbol) = self.layout.statics.get(&std::ptr::from_ref(variable)).cloned() {
            return self.define(&variable.name, symbol);
        }
        let symbol = match variable.space {
            Space::Reg => return self.declare_registers(variable),
            Space::Param if variable.array.is_none() && variable.vector == 1 => {
                Symbol::Parameter(self.new_register(variable.ty)?)
            }
            Space::Param | Space::Local => {
                let (size, align) = self.size_and_align(variable)?;
                let address = self.place_bytes(self.layout.local_bytes as u64, size, align, Space::Local)?;
                self.layout.local_bytes = (address + size) as usize;
                Symbol::Memory { space: Space::Local, address }
            }
            Space::Shared if variable.array == Some(0) => {
                let (_, align) = self.size_and_align(variable)?;
                self.layout.dynamic_align = self.layout.dynamic_align.max(align).max(16);
                Symbol::DynamicShared
            }
            Space::Shared => {
                let (size, align) = self.size_and_align(variable)?;
                let dense = self.place_bytes(self.layout.shared_bytes as u64, size, align, Space::Shared)?;
                self.layout.shared_bytes = (dense + size) as usize;
                let gap = if self.layout.shared.is_empty() { 0 } else { SHARED_GAP };
                let address = self.place_bytes(self.layout.shared_end as u64 + gap, size, align, Space::Shared)?;
                self.layout.shared_end = (address + size) as usize;
                let name = variable.name.clone();
                self.layout.shared.push(SharedVariable {
                    name,
                    offset: address as usize,
                    size_bytes: size as usize,
                    is_zeroed: false,
                });
                Symbol::Memory { space: Space::Shared, address }
            }
            Space::Global | Space::Const => self.declare_global(variable)?,
        };
        if is_static {
            self.layout.statics.insert(variable, symbol.clone());
        }
        self.define(&variable.name, symbol)
    }

    /// Sets aside the part of the local frame that `alloca` hands out, at its end: past it is past the frame.
    pub(super) fn reserve_stack(&mut self) {
        let mut is_used = false;
        for body in self.module.functions.iter().filter_map(|f| f.body.as_deref()) {
            super::each_instruction(body, &mut |i| is_used |= i.opcode == "alloca");
        }
        if is_used {
            let (top, start) = (self.slots.wide(), self.slots.wide());
            self.push_unguarded(Op::Mov64 { d: top, a: start });
            self.layout.stack_start = Some(start);
            self.stack = Some(top);
        }
    }

    /// Where the shared memory starts that a device keeps for itself and lends to its libraries.
    pub(super) fn reserved_shared(&mut self) -> Result<u64, Error> {
        if let Some(reserved) = self.layout.shared.iter().find(|v| v.name == RESERVED_SHARED) {
            return Ok(reserved.offset as u64);
        }
        let gap = if self.layout.shared.is_empty() { 0 } else { SHARED_GAP };
        let end = self.layout.shared_end as u64 + gap;
        let address = self.place_bytes(end, RESERVED_BYTES, RESERVED_BYTES, Space::Shared)?;
        self.layout.shared_end = (address + RESERVED_BYTES) as usize;
        let (name, size_bytes) = (RESERVED_SHARED.to_owned(), RESERVED_BYTES as usize);
        self.layout.shared.push(SharedVariable { name, offset: address as usize, size_bytes, is_zeroed: true });
        Ok(address)
    }

    fn declare_global(&mut self, variable: &Variable) -> Result<Symbol, Error> {
        if variable.is_extern {
            return Ok(Symbol::Elsewhere);
        }
        let (size, align) = self.size_and_align(variable)?;
        let is_const = variable.space == Space::Const;
        let next = if is_const { self.layout.next_const } else { self.layout.next_global };
        self.layout.module_bytes = self.place_bytes(self.layout.module_bytes, size, 1, variable.space)? + size;
        let offset = next.next_multiple_of(align.max(16));
        let after = offset + size + GLOBAL_GAP;
        let address = if is_const {
            self.layout.next_const = after;
            offset
        } else {
            self.layout.next_global = after;
            MODULE_GLOBALS + offset
        };
        self.layout.globals.push(Global {
            name: variable.name.clone(),
            space: variable.space,
            address,
            bytes: vec![0; size as usize],
        });
        Ok(Symbol::Memory { space: variable.space, address })
    }

    fn place_bytes(&self, next: u64, size: u64, align: u64, space: Space) -> Result<u64, Error> {
        let address = next.next_multiple_of(align);
        if size > MAX_SPACE_BYTES || address + size > MAX_SPACE_BYTES {
            let what = match space {
                Space::Shared => "bytes of shared memory",
                Space::Local => "bytes of local memory",
                _ => "bytes of module variables",
            };
            return Err(Error::TooLarge {
                at: self.at,
                what,
                limit: MAX_SPACE_BYTES,
                found: address.saturating_add(size),
            });
        }
        Ok(address)
    }

    fn size_and_align(&self, variable: &Variable) -> Result<(u64, u64), Error> {
        let element = variable.ty.size_bytes() as u64 * u64::from(variable.vector);
        let size = element.saturating_mul(variable.array.unwrap_or(1));
        if size > MAX_SPACE_BYTES {
            return Err(Error::TooLarge {
                at: self.at,
                what: "bytes of one variable",
                limit: MAX_SPACE_BYTES,
                found: size,
            });
        }
        Ok((size, variable.align.unwrap_or(element).max(1)))
    }

    fn initial_bytes(&mut self, variable: &Variable) -> Result<Vec<u8>, Error> {
        let element = variable.ty.size_bytes();
        let mut out = Vec::with_capacity(variable.initial.len() * element);
        for item in &variable.initial {
            let value = match item {
                Initial::Int(n) => *n,
                Initial::F32(bits) => u64::from(*bits),
                Initial::F64(bits) if element == 4 => u64::from((f64::from_bits(*bits) as f32).to_bits()),
                Initial::F64(bits) => *bits,
                Initial::Symbol { name, offset, generic, mask } => {
                    let address = match (self.lookup(name)?, self.function_address(name)) {
                        (Some(Symbol::Memory { space, address }), _) => {
                            let window = match space {
                                Space::Const if *generic => CONST_WINDOW,
                                Space::Shared if *generic => SHARED_WINDOW,
                                Space::Local if *generic => LOCAL_WINDOW,
                                _ => 0,
                            };
                            window + address
                        }
                        (None, Some(function)) => function,
                        (None, None) => {
                            return Err(Error::UnknownName { at: self.at, what: "variable", name: name.clone() });
                        }
                        _ => return Err(Error::syntax(self.at, "a variable with an address", format!("`{name}`"))),
                    };
                    let address = address.wrapping_add(*offset as u64);
                    match mask {
                        Some(0) | None => address,
                        Some(mask) => (address & mask) >> mask.trailing_zeros(),
                    }
                }
            };
            out.extend(value.to_le_bytes().iter().take(element));
        }
        Ok(out)
    }
}
