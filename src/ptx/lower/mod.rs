//! A kernel's statements to a [`Program`]: names resolved, calls inlined, instructions matched against the table.
//!
//! The table of instructions is [`dispatch`] and the family files it names; an instruction that isn't in them is
//! [`Error::Unsupported`]. Memory windows, call parameters and the local frame are laid out here.

mod arithmetic;
mod carry;
mod compare;
mod composed;
mod control;
mod convert;
mod form;
mod layout;
mod logic;
mod matrix;
mod mbarrier;
mod memory;
mod names;
mod warp;
mod wmma;

use super::ast::{Function, Instruction, Module, Operand, Statement};
use super::error::{Error, Position};
use super::op::{Condition, Op, Pred, Slot};
use super::program::{Constants, Guard, Inst, Program};
use super::unwritten::unwritten;
use form::Form;
use names::{Register, Scope, Slots, Symbol};
use std::collections::HashMap;

/// Calls are inlined; past this many instructions the kernel is refused.
const MAX_CODE: usize = 1 << 20;
/// Statements lowered, those of inlined functions each time: calls of functions without instructions count too.
const MAX_STATEMENTS: usize = 1 << 22;
/// Targets of all indexed branches.
const MAX_TARGETS: usize = 1 << 20;
/// Calls inside calls; PTX recursion shows as passing this.
const MAX_CALL_DEPTH: usize = 32;

impl Module {
    /// Turns the kernel `entry` into a runnable program.
    ///
    /// # Errors
    /// [`Error::UnknownName`] for an entry or name that isn't there, [`Error::Unsupported`] for an instruction outside
    /// this program's surface, [`Error::Syntax`] for operands that don't fit their instruction.
    pub fn lower(&self, entry: &str) -> Result<Program, Error> {
        let function =
            self.functions.iter().find(|f| f.is_entry && f.body.is_some() && f.name == entry).ok_or_else(|| {
                Error::UnknownName { at: Position::default(), what: "kernel", name: entry.to_owned() }
            })?;
        let mut lowerer = Lowerer::new(self);
        let (params, param_bytes) = lowerer.entry_params(function)?;
        lowerer.module_variables()?;
        lowerer.body(function)?;
        lowerer.finish(function, params, param_bytes)
    }
}

/// State of lowering one kernel.
struct Lowerer<'m> {
    module: &'m Module,
    /// What a call may name. A prototype may precede the definition; the one with a body counts.
    functions: HashMap<&'m str, &'m Function>,
    code: Vec<Inst>,
    slots: Slots,
    scopes: Vec<Scope>,
    /// Innermost function's first scope: names outside it are module-level only.
    function_base: usize,
    call_depth: usize,
    /// Statements and indexed branch targets so far.
    statements: usize,
    targets: usize,
    /// Code index of each label, once placed.
    labels: Vec<Option<u32>>,
    /// Label at the end of the function being inlined; `None` in the kernel itself.
    return_label: Option<u32>,
    /// The carry flag, once something uses it.
    carry: Option<Pred>,
    layout: layout::Layout,
    at: Position,
    source: (u32, u32),
    guard: Guard,
}

impl<'m> Lowerer<'m> {
    fn new(module: &'m Module) -> Self {
        let mut functions = HashMap::<&str, &Function>::new();
        for function in module.functions.iter().filter(|f| !f.is_entry) {
            let known = functions.entry(&function.name).or_insert(function);
            if known.body.is_none() {
                *known = function;
            }
        }
        Self {
            module,
            functions,
            code: Vec::new(),
            slots: Slots::default(),
            scopes: vec![Scope::default()],
            function_base: 1,
            call_depth: 0,
            statements: 0,
            targets: 0,
            labels: Vec::new(),
            return_label: None,
            carry: None,
            layout: layout::Layout::default(),
            at: Position::default(),
            source: (0, 0),
            guard: Guard::Always,
        }
    }

    fn body(&mut self, function: &'m Function) -> Result<(), Error> {
        let statements = function.body.as_deref().unwrap_or_default();
        self.statements(statements)
    }

    fn statements(&mut self, statements: &'m [Statement]) -> Result<(), Error> {
        self.statements =
            self.within(self.statements, statements.len(), MAX_STATEMENTS, "statements after inlining")?;
        self.scopes.push(Scope::default());
        self.declare_labels(statements)?;
        for statement in statements {
            match statement {
                Statement::Label(name, at) => {
                    self.at = *at;
                    let label = self.label(name)?;
                    self.place(label);
                }
                Statement::Variable(variable) => {
                    self.at = variable.at;
                    self.declare(variable)?;
                }
                Statement::Instruction(instruction) => self.instruction(instruction)?,
                Statement::Block(inner) => self.statements(inner)?,
                Statement::Loc { file, line } => {
                    self.source = (u32::try_from(*file).unwrap_or(0), u32::try_from(*line).unwrap_or(0));
                }
                Statement::Targets { .. } => {}
            }
        }
        self.scopes.pop();
        Ok(())
    }

    /// `count` and `more` together, if that is within `limit`.
    fn within(&self, count: usize, more: usize, limit: usize, what: &'static str) -> Result<usize, Error> {
        let found = count.saturating_add(more);
        if found > limit {
            return Err(Error::TooLarge { at: self.at, what, limit: limit as u64, found: found as u64 });
        }
        Ok(found)
    }

    fn declare_labels(&mut self, statements: &'m [Statement]) -> Result<(), Error> {
        for statement in statements {
            match statement {
                Statement::Label(name, at) => {
                    self.at = *at;
                    let label = self.new_label();
                    self.define(name, Symbol::Label(label))?;
                }
                Statement::Targets { name, labels } => self.define(name, Symbol::Targets(labels.clone()))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn new_label(&mut self) -> u32 {
        self.labels.push(None);
        (self.labels.len() - 1) as u32
    }

    fn place(&mut self, label: u32) {
        if let Some(slot) = self.labels.get_mut(label as usize) {
            *slot = Some(self.code.len() as u32);
        }
    }

    fn instruction(&mut self, instruction: &'m Instruction) -> Result<(), Error> {
        self.at = instruction.at;
        self.guard = match &instruction.guard {
            None => Guard::Always,
            Some((name, negated)) => {
                let Condition { pred, .. } = self.condition_named(name)?;
                if *negated { Guard::Unless(pred) } else { Guard::If(pred) }
            }
        };
        if self.code.len() >= MAX_CODE {
            return Err(Error::TooLarge {
                at: self.at,
                what: "instructions after inlining",
                limit: MAX_CODE as u64,
                found: self.code.len() as u64 + 1,
            });
        }
        dispatch(self, &mut Form::new(instruction))
    }

    /// Appends an operation under the current guard.
    fn push(&mut self, op: Op) {
        self.code.push(Inst { op, guard: self.guard, line: self.at.line, source: self.source });
    }

    /// Appends an operation that writes only scratch slots, for all lanes.
    fn push_unguarded(&mut self, op: Op) {
        self.code.push(Inst { op, guard: Guard::Always, line: self.at.line, source: self.source });
    }

    fn finish(
        mut self,
        function: &Function,
        params: Vec<super::program::Param>,
        param_bytes: usize,
    ) -> Result<Program, Error> {
        self.guard = Guard::Always;
        self.push(Op::Exit);
        let resolve = |label: &mut u32| {
            // Every label is declared by the statement that places it, so an unplaced one can't be named.
            *label = self.labels.get(*label as usize).copied().flatten().unwrap_or(0);
        };
        for inst in &mut self.code {
            match &mut inst.op {
                Op::Branch { target } => resolve(target),
                Op::BranchIndexed { targets, .. } => targets.iter_mut().for_each(resolve),
                _ => {}
            }
        }
        self.layout.finish(&mut self.slots);
        let directive = |name: &str| function.directives.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_slice());
        let dim = |v: &[u64], i: usize| v.get(i).copied().unwrap_or(1);
        let Constants { words, wides, preds } = &self.slots.constants;
        let filled = (words.iter().map(|(word, _)| Slot::Word(*word)))
            .chain(wides.iter().map(|(wide, _)| Slot::Wide(*wide)))
            .chain(preds.iter().map(|(pred, _)| Slot::Pred(*pred)))
            .chain(self.slots.specials.iter().map(|(word, _)| Slot::Word(*word)))
            .collect();
        let unwritten = unwritten(&self.code, &filled);
        Ok(Program {
            name: function.name.clone(),
            target: self.module.target().to_owned(),
            params,
            param_bytes,
            static_shared_bytes: self.layout.shared_bytes,
            dynamic_shared_offset: self.layout.shared_end,
            local_bytes: self.layout.local_bytes,
            max_threads: directive("maxntid").map(|v| dim(v, 0).saturating_mul(dim(v, 1)).saturating_mul(dim(v, 2))),
            required_block: directive("reqntid")
                .map(|v| [0, 1, 2].map(|i| u32::try_from(dim(v, i)).unwrap_or(u32::MAX))),
            code: self.code,
            words: self.slots.words,
            wides: self.slots.wides,
            preds: self.slots.preds,
            constants: self.slots.constants,
            specials: self.slots.specials,
            unwritten,
            globals: self.layout.globals,
            shared: self.layout.shared,
            files: self.module.files.clone(),
            lines: self.module.lines.clone(),
        })
    }
}

/// The table of instructions, by family.
fn dispatch(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    match form.opcode() {
        "addc" | "subc" | "madc" => carry::lower(lw, form),
        "add" | "sub" | "mad" if form.has("cc") => carry::lower(lw, form),
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "min" | "max" | "abs" | "neg" | "sad" | "mul24"
        | "copysign" | "dp4a" => match composed::arithmetic(lw, form)? {
            Some(()) => Ok(()),
            None => arithmetic::lower(lw, form),
        },
        "dp2a" | "mad24" | "fns" | "bmsk" | "szext" => composed::lower(lw, form),
        "testp" => composed::testp(lw, form),
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => arithmetic::function(lw, form),
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "popc" | "clz" | "brev" | "bfind" | "bfe"
        | "bfi" | "prmt" | "lop3" => logic::lower(lw, form),
        "setp" | "set" | "selp" | "slct" => compare::lower(lw, form),
        "cvt" => convert::cvt(lw, form),
        "mov" => convert::mov(lw, form),
        "cvta" | "isspacep" => memory::windows(lw, form),
        "ld" | "ldu" | "st" | "prefetch" | "prefetchu" => memory::lower(lw, form),
        "atom" | "red" => memory::atomic(lw, form),
        "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" | "griddepcontrol" | "pmevent" => {
            control::lower(lw, form)
        }
        "bar" | "barrier" | "membar" | "fence" => warp::barrier(lw, form),
        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => warp::lower(lw, form),
        "ldmatrix" | "stmatrix" => matrix::access(lw, form),
        "mma" => matrix::mma(lw, form),
        "mbarrier" => mbarrier::lower(lw, form),
        "wmma" => wmma::lower(lw, form),
        "cp" => matrix::copy(lw, form),
        _ => Err(form.unsupported("unknown instruction")),
    }
}

impl Lowerer<'_> {
    fn operand_error<T>(&self, expected: &str, operand: &Operand) -> Result<T, Error> {
        Err(Error::syntax(self.at, expected, names::describe(operand)))
    }

    fn register_error<T>(&self, expected: &str, name: &str, register: Register) -> Result<T, Error> {
        Err(Error::syntax(self.at, expected, format!("`{name}` of {} bits", register.bits)))
    }
}
