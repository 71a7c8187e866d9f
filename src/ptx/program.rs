//! A lowered program: what the emulator runs.

use super::op::{Op, Pred, Slot, Special, Wide, Word};
use super::types::{Space, Type};
use std::sync::Arc;

/// Start of the window of shared memory in the generic address space.
pub const SHARED_WINDOW: u64 = 0x1000_0000_0000;
/// Start of the window of local memory.
pub const LOCAL_WINDOW: u64 = 0x2000_0000_0000;
/// Start of the window of constant memory.
pub const CONST_WINDOW: u64 = 0x3000_0000_0000;
/// Start of the kernel parameters in the generic address space.
pub const PARAM_WINDOW: u64 = 0x3800_0000_0000;
/// Size of each of those windows.
pub const WINDOW_BYTES: u64 = 0x0800_0000_0000;
/// Start of the module's own `.global` variables.
pub const MODULE_GLOBALS: u64 = 0x4000_0000_0000;

/// One kernel, ready to run. Made by [`super::Module::lower`].
#[derive(Clone, Debug)]
pub struct Program {
    pub(super) name: String,
    pub(super) target: String,
    pub(super) params: Vec<Param>,
    pub(super) param_bytes: usize,
    pub(super) static_shared_bytes: usize,
    pub(super) dynamic_shared_offset: usize,
    pub(super) local_bytes: usize,
    pub(super) max_threads: Option<u64>,
    pub(super) required_block: Option<[u32; 3]>,
    pub(super) code: Vec<Inst>,
    pub(super) words: u32,
    pub(super) wides: u32,
    pub(super) preds: u32,
    pub(super) constants: Constants,
    pub(super) specials: Vec<(Word, Special)>,
    pub(super) unwritten: Vec<(Slot, u32)>,
    pub(super) globals: Vec<Global>,
    pub(super) shared: Vec<SharedVariable>,
    pub(super) files: Vec<(u64, String)>,
    pub(super) lines: Arc<[String]>,
}

/// Slots that hold one value in every lane for the whole launch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Constants {
    /// 32-bit constants.
    pub words: Vec<(Word, u32)>,
    /// 64-bit constants.
    pub wides: Vec<(Wide, u64)>,
    /// Constant predicates.
    pub preds: Vec<(Pred, bool)>,
}

/// A kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name in the PTX text.
    pub name: String,
    /// Element type; `size_bytes` says whether there are several (`.b8 name[16]`).
    pub ty: Type,
    /// Byte offset in the parameter block.
    pub offset: usize,
    /// Size in bytes, arrays included.
    pub size_bytes: usize,
    /// Alignment in bytes.
    pub align: usize,
}

/// A `.global` or `.const` variable of the module.
#[derive(Clone, Debug)]
pub struct Global {
    /// Name in the PTX text.
    pub name: String,
    /// [`Space::Global`] or [`Space::Const`].
    pub space: Space,
    /// Address, within the space for constants.
    pub address: u64,
    /// Contents at launch.
    pub bytes: Vec<u8>,
}

/// A statically sized shared variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedVariable {
    /// Name in the PTX text.
    pub name: String,
    /// Byte offset in shared memory.
    pub offset: usize,
    /// Size in bytes.
    pub size_bytes: usize,
    /// Whether it starts as zeros, as what the device reserves does.
    pub is_zeroed: bool,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Inst {
    /// What it does.
    pub op: Op,
    /// Lanes it does it for.
    pub guard: Guard,
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// `.loc` in force: file index and line, both 0 where there is none.
    pub source: (u32, u32),
}

/// The guarding predicate of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "`@p` and `@!p`")]
pub enum Guard {
    Always,
    If(Pred),
    Unless(Pred),
}

impl Program {
    /// Whether both do the same, whatever their texts: the same operations on the same registers and constants.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let same = |(own, other): (&Inst, &Inst)| own.op == other.op && own.guard == other.guard;
        self.code.len() == other.code.len()
            && self.code.iter().zip(&other.code).all(same)
            && self.constants == other.constants
            && self.specials == other.specials
            && self.slots() == other.slots()
    }

    /// Name of the kernel.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The module's `.target`, such as `sm_90`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Parameters in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Size of the parameter block in bytes.
    pub fn param_bytes(&self) -> usize {
        self.param_bytes
    }

    /// Bytes of statically sized shared variables, as a device lays them out: side by side.
    pub fn static_shared_bytes(&self) -> usize {
        self.static_shared_bytes
    }

    /// Where dynamic shared memory starts: after the static variables, which have gaps between them here.
    pub fn dynamic_shared_offset(&self) -> usize {
        self.dynamic_shared_offset
    }

    /// Bytes of local memory a thread needs.
    pub fn local_bytes(&self) -> usize {
        self.local_bytes
    }

    /// The most threads a block may have (`.maxntid`), where the kernel says.
    pub fn max_threads(&self) -> Option<u64> {
        self.max_threads
    }

    /// The exact block the kernel needs (`.reqntid`), where it says.
    pub fn required_block(&self) -> Option<[u32; 3]> {
        self.required_block
    }

    /// The instructions. Branch targets are indices into this.
    pub fn code(&self) -> &[Inst] {
        &self.code
    }

    /// Number of 32-bit slots, 64-bit slots and predicates.
    pub fn slots(&self) -> (usize, usize, usize) {
        (self.words as usize, self.wides as usize, self.preds as usize)
    }

    /// Constant slots.
    pub fn constants(&self) -> &Constants {
        &self.constants
    }

    /// Slots that hold special registers.
    pub fn specials(&self) -> &[(Word, Special)] {
        &self.specials
    }

    /// Registers that may be read before they are written, and the first instruction that may do so.
    pub fn unwritten(&self) -> &[(Slot, u32)] {
        &self.unwritten
    }

    /// Variables of the module, with their contents at launch.
    pub fn globals(&self) -> &[Global] {
        &self.globals
    }

    /// Statically sized shared variables, in order of offset.
    pub fn shared_variables(&self) -> &[SharedVariable] {
        &self.shared
    }

    /// The text of a line of PTX, trimmed.
    pub fn line(&self, line: u32) -> &str {
        (line as usize).checked_sub(1).and_then(|i| self.lines.get(i)).map_or("", |l| l.trim())
    }

    /// Path of a `.file`.
    pub fn file(&self, index: u32) -> Option<&str> {
        self.files.iter().find(|(i, _)| *i == u64::from(index)).map(|(_, path)| path.as_str())
    }
}
