//! A parsed module: declarations and instructions as written, names unresolved.

use super::error::Position;
use super::types::{Space, Type};

/// One PTX module. Made by [`super::parse`].
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    pub(super) version: (u32, u32),
    pub(super) target: String,
    pub(super) variables: Vec<Variable>,
    pub(super) functions: Vec<Function>,
    /// `.file` index and path.
    pub(super) files: Vec<(u64, String)>,
    /// The text's lines, for messages.
    pub(super) lines: std::sync::Arc<[String]>,
}

impl Module {
    /// Names of the kernels, in the order of the text.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.functions.iter().filter(|f| f.is_entry && f.body.is_some()).map(|f| f.name.as_str())
    }

    /// What each kernel says of how it is launched, in the order of the text.
    pub fn signatures(&self) -> Vec<Signature> {
        let is_dynamic = |v: &Variable| v.space == Space::Shared && v.is_extern;
        let has_dynamic_shared = self.variables.iter().any(is_dynamic);
        let kernels = self.functions.iter().filter(|f| f.is_entry && f.body.is_some());
        kernels.map(|function| function.signature(has_dynamic_shared)).collect()
    }

    /// The `.target`, such as `sm_80`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The `.version`, major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }
}

/// What a kernel says of how it is launched.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signature {
    /// The entry point's name.
    pub name: String,
    /// Name, type and size in bytes of each parameter; of an array the type is its elements'.
    pub params: Vec<(String, Type, usize)>,
    /// Threads of a block, if the kernel asks for a number, and the directive that does.
    pub block: Option<(u64, &'static str)>,
    /// Whether the module has shared memory whose size the launch says.
    pub has_dynamic_shared: bool,
}

/// A variable or a group of registers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) space: Space,
    pub(super) ty: Type,
    /// Elements of a `.v2`/`.v4`.
    pub(super) vector: u32,
    pub(super) align: Option<u64>,
    /// Elements of an array; `Some(0)` when the size is open.
    pub(super) array: Option<u64>,
    /// `%r<5>` declares `%r0` to `%r4`.
    pub(super) range: Option<u64>,
    pub(super) initial: Vec<Initial>,
    pub(super) is_extern: bool,
    pub(super) at: Position,
}

/// One element of an initialiser.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Initial {
    Int(u64),
    F32(u32),
    F64(u64),
    /// An address, or with `mask` that byte of it: `0xFF00(name)` is the second.
    Symbol {
        name: String,
        offset: i64,
        generic: bool,
        mask: Option<u64>,
    },
}

/// An `.entry` or a `.func`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) is_entry: bool,
    pub(super) params: Vec<Variable>,
    pub(super) returns: Vec<Variable>,
    /// Limits such as `maxntid`, with their numbers.
    pub(super) directives: Vec<(String, Vec<u64>)>,
    pub(super) body: Option<Vec<Statement>>,
}

impl Function {
    fn signature(&self, has_dynamic_shared: bool) -> Signature {
        let size = |v: &Variable| {
            let elements = u64::from(v.vector).saturating_mul(v.array.unwrap_or(1));
            usize::try_from(elements).unwrap_or(usize::MAX).saturating_mul(v.ty.size_bytes())
        };
        let threads = |name: &'static str| {
            let (_, dims) = self.directives.iter().find(|(n, _)| n == name)?;
            Some((dims.iter().fold(1u64, |n, &dim| n.saturating_mul(dim)), name))
        };
        Signature {
            name: self.name.clone(),
            params: self.params.iter().map(|v| (v.name.clone(), v.ty, size(v))).collect(),
            block: threads("reqntid").or_else(|| threads("maxntid")),
            has_dynamic_shared,
        }
    }
}

/// One line of a function's body.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Statement {
    Label(String, Position),
    Variable(Variable),
    Instruction(Instruction),
    Block(Vec<Statement>),
    Loc {
        file: u64,
        line: u64,
    },
    /// `name: .branchtargets a, b;` or `name: .calltargets f, g;`
    Targets {
        name: String,
        of_calls: bool,
        labels: Vec<String>,
    },
    /// `name: .callprototype (returns) _ (params);`
    Prototype {
        name: String,
        returns: Vec<Variable>,
        params: Vec<Variable>,
    },
}

/// One instruction as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// Guarding predicate, and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// The first word, such as `ld`.
    pub opcode: String,
    /// What follows it, without dots.
    pub modifiers: Vec<String>,
    /// In the order of the text.
    pub operands: Vec<Operand>,
    /// Where its opcode starts.
    pub at: Position,
}

impl Instruction {
    /// The opcode with its modifiers, as written.
    pub(super) fn full_name(&self) -> String {
        let mut name = self.opcode.clone();
        for m in &self.modifiers {
            name.push('.');
            name.push_str(m);
        }
        name
    }
}

/// One operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// Register, variable, label, or special register with its component (`%tid.x`).
    Name(String),
    /// `name+4`.
    Offset(String, i64),
    /// An integer, as 64 bits.
    Int(u64),
    /// The bits of an f32.
    F32(u32),
    /// The bits of an f64.
    F64(u64),
    /// `!p`.
    Not(Box<Operand>),
    /// `d|p`.
    Pair(Box<Operand>, Box<Operand>),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
    /// `[base+offset]`.
    Address {
        /// What it starts from.
        base: Base,
        /// Bytes added.
        offset: i64,
    },
    /// `[a, b]`: a texture or a tensor map with coordinates.
    Place(Vec<Operand>),
}

/// What an address starts from.
#[derive(Clone, Debug, PartialEq)]
pub enum Base {
    /// A register or a variable.
    Name(String),
    /// Nothing: the offset is the address.
    Absolute,
}
