//! A kernel's statements to a [`Program`]: names resolved, calls inlined, instructions matched against the table.
//!
//! The table of instructions is [`dispatch`] and the family files it names; an instruction that isn't in them is
//! [`Error::Unsupported`]. Memory windows, call parameters and the local frame are laid out here.

mod arithmetic;
mod carry;
mod cluster;
mod compare;
mod composed;
mod control;
mod convert;
mod form;
mod layout;
mod logic;
mod matrix;
mod matrix_exact;
mod mbarrier;
mod memory;
mod names;
mod warp;
mod wmma;

use super::ast::{Function, Initial, Instruction, Module, Operand, Statement, Variable};
use super::error::{Error, Position};
use super::op::{AtomicOp, Condition, Op, Pred, Reg, Slot, Wide};
use super::program::{Constants, Guard, Inst, Program};
use super::unwritten::unwritten;
use form::Form;
use names::{Register, Scope, Shape, Slots, Symbol};
use std::collections::{HashMap, HashSet};

/// Calls are inlined; past this many instructions the kernel is refused.
const MAX_CODE: usize = 1 << 20;
/// Statements lowered, those of inlined functions each time: calls of functions without instructions count too.
const MAX_STATEMENTS: usize = 1 << 22;
/// Targets of all indexed branches.
const MAX_TARGETS: usize = 1 << 20;
/// Calls inside calls.
const MAX_CALL_DEPTH: usize = 64;
/// How often a function may be inside itself, and what is tried where that gives too much code.
const MAX_RECURSION: [usize; 3] = [32, 12, 5];

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
        let mut outcome = self.lower_within(function, MAX_RECURSION[0]);
        for depth in &MAX_RECURSION[1..] {
            if !matches!(outcome, Err((Error::TooLarge { .. }, true))) {
                break;
            }
            outcome = self.lower_within(function, *depth);
        }
        outcome.map_err(|(error, _)| error)
    }

    /// An error comes with whether the kernel is recursive.
    fn lower_within(&self, function: &Function, max_recursion: usize) -> Result<Program, (Error, bool)> {
        let mut lowerer = Lowerer::new(self, max_recursion);
        let mut lower = || {
            let (params, param_bytes) = lowerer.entry_params(function)?;
            cluster::check(&lowerer, function)?;
            lowerer.module_variables()?;
            lowerer.reserve_stack();
            lowerer.body(function)?;
            Ok((params, param_bytes))
        };
        match lower() {
            Ok((params, param_bytes)) => lowerer.finish(function, params, param_bytes).map_err(|e| (e, false)),
            Err(error) => Err((error, lowerer.is_recursive)),
        }
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
    /// Functions that something other than a direct call names, in the order of the text.
    addressed: Vec<&'m str>,
    /// The functions being inlined, outermost first.
    calls: Vec<&'m str>,
    max_recursion: usize,
    is_recursive: bool,
    /// Statements and indexed branch targets so far.
    statements: usize,
    targets: usize,
    /// Code index of each label, once placed.
    labels: Vec<Option<u32>>,
    /// Label at the end of the function being inlined; `None` in the kernel itself.
    return_label: Option<u32>,
    /// Top of what `alloca` hands out, if anything in the module does.
    stack: Option<Wide>,
    /// The carry flag, once something uses it.
    carry: Option<Pred>,
    layout: layout::Layout,
    at: Position,
    source: (u32, u32),
    guard: Guard,
}

impl<'m> Lowerer<'m> {
    fn new(module: &'m Module, max_recursion: usize) -> Self {
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
            addressed: addressed(module),
            calls: Vec::new(),
            max_recursion,
            is_recursive: false,
            statements: 0,
            targets: 0,
            labels: Vec::new(),
            return_label: None,
            stack: None,
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
                Statement::Targets { .. } | Statement::Prototype { .. } => {}
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
                Statement::Targets { name, labels, .. } => self.define(name, Symbol::Targets(labels.clone()))?,
                Statement::Prototype { name, returns, params } => {
                    let shape = |variables: &[Variable]| variables.iter().map(Shape::of).collect();
                    self.define(name, Symbol::Prototype { returns: shape(returns), params: shape(params) })?;
                }
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
                Op::Branch { target, .. } => resolve(target),
                Op::BranchIndexed { targets, .. } => targets.iter_mut().for_each(resolve),
                _ => {}
            }
        }
        self.layout.finish(&mut self.slots);
        strengthen(&mut self.code);
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

/// A loaded value that a compare-and-swap compares with is that loop's first guess, which CUDA's headers and guide read
/// plainly: a stale one costs a turn of the loop and nothing else, so the load counts as strong.
fn strengthen(code: &mut [Inst]) {
    let mut guesses: HashSet<Reg> = HashSet::new();
    for inst in &*code {
        if let Op::Atomic { op: AtomicOp::Cas, b, .. } = &inst.op {
            guesses.insert(*b);
        }
    }
    if guesses.is_empty() {
        return;
    }
    loop {
        let before = guesses.len();
        for inst in &*code {
            match &inst.op {
                Op::Mov32 { d, a } if guesses.contains(&Reg::Word(*d)) => guesses.insert(Reg::Word(*a)),
                Op::Mov64 { d, a } if guesses.contains(&Reg::Wide(*d)) => guesses.insert(Reg::Wide(*a)),
                _ => false,
            };
        }
        if guesses.len() == before {
            break;
        }
    }
    for inst in code {
        if let Op::Load { access, d: [Some(d), ..], .. } = &mut inst.op
            && access.elements == 1
            && guesses.contains(d)
        {
            access.strong = true;
        }
    }
}

/// The functions whose address the module takes.
fn addressed(module: &Module) -> Vec<&str> {
    fn add<'m>(operand: &'m Operand, names: &mut HashSet<&'m str>) {
        match operand {
            Operand::Name(name) => {
                names.insert(name);
            }
            Operand::Vector(items) => items.iter().for_each(|item| add(item, names)),
            _ => {}
        }
    }
    let mut names = HashSet::new();
    for initial in module.variables.iter().flat_map(|v| &v.initial) {
        if let Initial::Symbol { name, .. } = initial {
            names.insert(name.as_str());
        }
    }
    for body in module.functions.iter().filter_map(|f| f.body.as_deref()) {
        each_instruction(body, &mut |i| {
            if i.opcode != "call" {
                i.operands.iter().for_each(|operand| add(operand, &mut names));
            }
        });
    }
    let functions = module.functions.iter().filter(|f| !f.is_entry && f.body.is_some());
    functions.map(|f| f.name.as_str()).filter(|name| names.contains(name)).collect()
}

fn each_instruction<'m>(statements: &'m [Statement], visit: &mut impl FnMut(&'m Instruction)) {
    for statement in statements {
        match statement {
            Statement::Instruction(instruction) => visit(instruction),
            Statement::Block(inner) => each_instruction(inner, visit),
            _ => {}
        }
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
        "cvt" if form.has("pack") => convert::pack_integers(lw, form),
        "cvt" => convert::cvt(lw, form),
        "mov" => convert::mov(lw, form),
        "mapa" | "getctarank" => cluster::address(lw, form),
        "createpolicy" | "applypriority" => memory::policy(lw, form),
        "movmatrix" => composed::movmatrix(lw, form),
        "cvta" | "isspacep" => memory::windows(lw, form),
        "alloca" | "stacksave" | "stackrestore" => memory::stack(lw, form),
        "ld" | "ldu" | "st" | "prefetch" | "prefetchu" => memory::lower(lw, form),
        "atom" | "red" => memory::atomic(lw, form),
        "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" | "griddepcontrol" | "pmevent"
        | "setmaxnreg" => control::lower(lw, form),
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
