//! Control flow (PTX ISA, "Control Flow Instructions"). Calls are inlined here.

use super::convert::push_mov;
use super::form::Form;
use super::names::{Register, Scope, Shape, Slot, Symbol};
use super::{Lowerer, MAX_CALL_DEPTH, MAX_TARGETS};
use crate::ptx::ast::{Function, Operand, Variable};
use crate::ptx::error::Error;
use crate::ptx::op::{Compare, Condition, Op, Reg, Relation, Wide, Word};
use crate::ptx::program::Guard;
use crate::ptx::types::{Space, Type};

pub(super) fn lower(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let uniform = form.has("uni");
    match form.opcode() {
        "bra" => {
            form.done()?;
            let [target] = form.exactly()?;
            let Operand::Name(name) = target else {
                return lw.operand_error("a label", target);
            };
            let target = lw.label(name)?;
            lw.push(Op::Branch { target, uniform });
        }
        "brx" => indexed(lw, form)?,
        "call" => call(lw, form)?,
        "ret" => match lw.return_label {
            Some(target) => lw.push(Op::Branch { target, uniform }),
            None => lw.push(Op::Exit),
        },
        "exit" => lw.push(Op::Exit),
        "trap" => lw.push(Op::Trap),
        _ => lw.push(Op::Nop),
    }
    Ok(())
}

fn indexed(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    form.has("idx");
    form.done()?;
    let [index, Operand::Name(list)] = form.exactly()? else {
        return Err(form.unsupported("no list of targets"));
    };
    let Symbol::Targets(names) = lw.symbol(list, "list of targets")? else {
        return Err(Error::syntax(lw.at, "a list of targets", format!("`{list}`")));
    };
    lw.targets = lw.within(lw.targets, names.len(), MAX_TARGETS, "targets of indexed branches")?;
    let index = lw.word_source(index, Type::U32)?;
    let targets = names.iter().map(|n| lw.label(n)).collect::<Result<Box<[u32]>, _>>()?;
    lw.push(Op::BranchIndexed { index, targets });
    Ok(())
}

fn call(lw: &mut Lowerer<'_>, form: &Form<'_>) -> Result<(), Error> {
    form.done()?;
    let (returns, rest): (&[Operand], _) = match form.operands() {
        [Operand::List(returns), rest @ ..] => (returns, rest),
        rest => (&[], rest),
    };
    let (name, arguments, signature): (_, &[Operand], _) = match rest {
        [Operand::Name(name)] => (name, &[], None),
        [Operand::Name(name), Operand::List(arguments)] => (name, arguments, None),
        [Operand::Name(name), Operand::Name(signature)] => (name, &[], Some(signature)),
        [Operand::Name(name), Operand::List(arguments), Operand::Name(signature)] => (name, arguments, Some(signature)),
        _ => return Err(form.unsupported("no such form of a call")),
    };
    if let Some(signature) = signature {
        return indirect(lw, form, (name, signature), returns, arguments);
    }
    let Some(function) = lw.functions.get(name.as_str()).copied() else {
        return Err(Error::UnknownName { at: lw.at, what: "function", name: name.clone() });
    };
    if function.body.is_some() {
        return inline(lw, form, function, returns, arguments);
    }
    match (name.as_str(), arguments) {
        ("vprintf", [format, list]) => {
            let format = wide_argument(lw, format)?;
            let list = wide_argument(lw, list)?;
            let d = match returns.first() {
                Some(d) => Some(word_argument(lw, d)?),
                None => None,
            };
            lw.push(Op::Print { d, format, arguments: list });
            Ok(())
        }
        ("__assertfail", [message, file, line, function, _]) => {
            let message = wide_argument(lw, message)?;
            let file = wide_argument(lw, file)?;
            let line = word_argument(lw, line)?;
            let function = wide_argument(lw, function)?;
            lw.push(Op::AssertFail { message, file, line, function });
            Ok(())
        }
        _ => Err(form.unsupported(&format!("the external function `{name}`"))),
    }
}

/// Compares the callee with every function it may be, and inlines each of them behind its comparison.
fn indirect(
    lw: &mut Lowerer<'_>,
    form: &Form<'_>,
    (callee, signature): (&str, &str),
    returns: &[Operand],
    arguments: &[Operand],
) -> Result<(), Error> {
    let callee = lw.wide_source(&Operand::Name(callee.to_owned()), Type::U64)?;
    let shapes = |variables: &[Variable]| variables.iter().map(Shape::of).collect::<Vec<_>>();
    let candidates: Vec<&Function> = match lw.symbol(signature, "prototype")? {
        Symbol::Targets(names) => names.iter().filter_map(|n| lw.functions.get(n.as_str()).copied()).collect(),
        Symbol::Prototype { returns, params } => {
            let of_type = |f: &&Function| shapes(&f.returns) == returns && shapes(&f.params) == params;
            let addressed = lw.addressed.iter().filter_map(|n| lw.functions.get(n).copied());
            addressed.filter(of_type).collect()
        }
        _ => return Err(Error::syntax(lw.at, "a prototype or a list of functions", format!("`{signature}`"))),
    };
    let end = lw.new_label();
    branch_if_off(lw, end);
    for function in candidates {
        let Some(address) = lw.function_address(&function.name).filter(|_| function.body.is_some()) else {
            continue;
        };
        let (next, is_other) = (lw.new_label(), lw.slots.pred());
        let b = lw.slots.constant64(address);
        let compare = Compare { relation: Relation::Ne, ty: Type::U64, ftz: false };
        lw.guard = Guard::Always;
        lw.push(Op::Compare64 { compare, d: Some(is_other), q: None, a: callee, b, combine: None });
        lw.guard = Guard::If(is_other);
        lw.push(Op::Branch { target: next, uniform: false });
        lw.guard = Guard::Always;
        inline(lw, form, function, returns, arguments)?;
        lw.push(Op::Branch { target: end, uniform: false });
        lw.place(next);
    }
    lw.guard = Guard::Always;
    lw.push(Op::BadCall { callee });
    lw.place(end);
    Ok(())
}

/// Sends the lanes for which the guard doesn't hold to `target`.
fn branch_if_off(lw: &mut Lowerer<'_>, target: u32) {
    let off = match lw.guard {
        Guard::Always => return,
        Guard::If(p) => Guard::Unless(p),
        Guard::Unless(p) => Guard::If(p),
    };
    lw.guard = off;
    lw.push(Op::Branch { target, uniform: false });
    lw.guard = Guard::Always;
}

fn inline<'m>(
    lw: &mut Lowerer<'m>,
    form: &Form<'_>,
    function: &'m Function,
    returns: &[Operand],
    arguments: &[Operand],
) -> Result<(), Error> {
    if lw.calls.len() >= MAX_CALL_DEPTH {
        return Err(form.unsupported("calls nested more than 64 deep"));
    }
    if function.params.len() != arguments.len() || function.returns.len() != returns.len() {
        return Err(Error::syntax(
            lw.at,
            format!("{} arguments and {} results", function.params.len(), function.returns.len()),
            format!("{} and {}", arguments.len(), returns.len()),
        ));
    }
    let inside_itself = lw.calls.iter().filter(|name| **name == function.name).count();
    lw.is_recursive |= inside_itself > 0;
    if inside_itself >= lw.max_recursion {
        lw.push(Op::TooDeep);
        return Ok(());
    }
    let (after, end) = (lw.new_label(), lw.new_label());
    branch_if_off(lw, end);
    let mut bound = Vec::new();
    for (variable, operand) in function.params.iter().zip(arguments) {
        bind_argument(lw, form, variable, operand, &mut bound)?;
    }
    let mut results = Vec::new();
    for (variable, operand) in function.returns.iter().zip(returns) {
        if let Some(symbol) = shared_symbol(lw, variable, operand)? {
            bound.push((variable.name.clone(), symbol));
            continue;
        }
        let symbols = lw.register_symbols(variable)?;
        let registers = symbols.iter().filter_map(|(_, symbol)| register_of(symbol));
        results.extend(registers.zip(items(lw.spread(operand)?)).map(|(r, operand)| (r, operand, variable.ty)));
        bound.extend(in_space(variable, symbols));
    }
    let saved = (lw.function_base, lw.return_label.replace(after), lw.at, lw.source);
    lw.function_base = lw.scopes.len();
    lw.calls.push(&function.name);
    lw.scopes.push(Scope::default());
    for (name, symbol) in bound {
        lw.define(&name, symbol)?;
    }
    lw.body(function)?;
    lw.scopes.pop();
    lw.calls.pop();
    (lw.function_base, lw.return_label, lw.at, lw.source) = saved;
    lw.guard = Guard::Always;
    lw.place(after);
    for (register, operand, ty) in results {
        copy_to_caller(lw, form, register, &operand, ty)?;
    }
    lw.place(end);
    Ok(())
}

/// The caller's variable in parameter space, which the callee's is another name for.
fn shared_symbol(lw: &mut Lowerer<'_>, variable: &Variable, operand: &Operand) -> Result<Option<Symbol>, Error> {
    let Operand::Name(name) = operand else { return Ok(None) };
    let symbol = if name == "_" { None } else { lw.lookup(name)? };
    let is_parameter = |symbol: &Symbol| {
        matches!(symbol, Symbol::Parameter(_) | Symbol::Memory { space: Space::Local | Space::Param, .. })
    };
    Ok(symbol.filter(|symbol| variable.space == Space::Param && is_parameter(symbol)))
}

fn register_of(symbol: &Symbol) -> Option<Register> {
    match symbol {
        Symbol::Register(register) | Symbol::Parameter(register) => Some(*register),
        _ => None,
    }
}

/// The elements of a vector, or the one operand.
fn items(operand: Operand) -> Vec<Operand> {
    match operand {
        Operand::Vector(items) => items,
        operand => vec![operand],
    }
}

/// Adds what the callee calls an argument: the caller's variable, or registers with copies of its value.
fn bind_argument(
    lw: &mut Lowerer<'_>,
    form: &Form<'_>,
    variable: &Variable,
    operand: &Operand,
    bound: &mut Vec<(String, Symbol)>,
) -> Result<(), Error> {
    if let Some(symbol) = shared_symbol(lw, variable, operand)? {
        bound.push((variable.name.clone(), symbol));
        return Ok(());
    }
    if variable.array.is_some() {
        return lw.operand_error("a variable in parameter space", operand);
    }
    let symbols = lw.register_symbols(variable)?;
    let registers: Vec<_> = symbols.iter().filter_map(|(_, symbol)| register_of(symbol)).collect();
    let operands = items(lw.spread(operand)?);
    if registers.len() != operands.len() {
        return lw.operand_error(&format!("{} values", registers.len()), operand);
    }
    for (register, operand) in registers.into_iter().zip(&operands) {
        let d = match register.slot {
            Slot::Pred(d) => {
                let a = lw.condition(operand)?;
                lw.push(Op::PredMov { d, a });
                continue;
            }
            Slot::Word(d) => Reg::Word(d),
            Slot::Wide(d) => Reg::Wide(d),
        };
        let a = match argument(lw, operand)? {
            Some(a) => a,
            None => lw.source(operand, variable.ty)?,
        };
        push_mov(lw, form, d, a)?;
    }
    bound.extend(in_space(variable, symbols));
    Ok(())
}

/// A parameter is reached by `ld.param` and `st.param` only.
fn in_space(variable: &Variable, symbols: Vec<(String, Symbol)>) -> impl Iterator<Item = (String, Symbol)> {
    let is_parameter = variable.space == Space::Param;
    symbols.into_iter().map(move |(name, symbol)| match symbol {
        Symbol::Register(register) if is_parameter => (name, Symbol::Parameter(register)),
        symbol => (name, symbol),
    })
}

/// A result into a register or a parameter of the caller.
fn copy_to_caller(
    lw: &mut Lowerer<'_>,
    form: &Form<'_>,
    register: Register,
    operand: &Operand,
    ty: Type,
) -> Result<(), Error> {
    if let Slot::Pred(pred) = register.slot {
        if let Some(d) = lw.pred_destination(operand)? {
            lw.push(Op::PredMov { d, a: Condition { pred, negated: false } });
        }
        return Ok(());
    }
    let d = match argument(lw, operand)? {
        Some(d) => d,
        None => lw.destination(operand, ty)?,
    };
    match register.slot {
        Slot::Word(a) => push_mov(lw, form, d, Reg::Word(a)),
        Slot::Wide(a) => push_mov(lw, form, d, Reg::Wide(a)),
        Slot::Pred(_) => Ok(()),
    }
}

fn wide_argument(lw: &mut Lowerer<'_>, operand: &Operand) -> Result<Wide, Error> {
    match argument(lw, operand)? {
        Some(Reg::Wide(wide)) => Ok(wide),
        _ => lw.operand_error("a 64-bit call parameter", operand),
    }
}

fn word_argument(lw: &mut Lowerer<'_>, operand: &Operand) -> Result<Word, Error> {
    match argument(lw, operand)? {
        Some(Reg::Word(word)) => Ok(word),
        _ => lw.operand_error("a 32-bit call parameter", operand),
    }
}

fn argument(lw: &mut Lowerer<'_>, operand: &Operand) -> Result<Option<Reg>, Error> {
    match operand {
        Operand::Name(name) => lw.parameter_register(name),
        _ => Ok(None),
    }
}
