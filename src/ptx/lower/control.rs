//! Control flow (PTX ISA, "Control Flow Instructions"). Calls are inlined here.

use super::form::Form;
use super::names::{Scope, Symbol};
use super::{Lowerer, MAX_CALL_DEPTH, MAX_TARGETS};
use crate::ptx::ast::{Function, Operand};
use crate::ptx::error::Error;
use crate::ptx::op::{Op, Reg, Wide, Word};
use crate::ptx::program::Guard;
use crate::ptx::types::Type;

pub(super) fn lower(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    form.has("uni");
    match form.opcode() {
        "bra" => {
            form.done()?;
            let [target] = form.exactly()?;
            let Operand::Name(name) = target else {
                return lw.operand_error("a label", target);
            };
            let target = lw.label(name)?;
            lw.push(Op::Branch { target });
        }
        "brx" => indexed(lw, form)?,
        "call" => call(lw, form)?,
        "ret" => match lw.return_label {
            Some(target) => lw.push(Op::Branch { target }),
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
    let (returns, name, arguments): (&[Operand], _, &[Operand]) = match form.operands() {
        [Operand::Name(name)] => (&[], name, &[]),
        [Operand::Name(name), Operand::List(arguments)] => (&[], name, arguments),
        [Operand::List(returns), Operand::Name(name)] => (returns, name, &[]),
        [Operand::List(returns), Operand::Name(name), Operand::List(arguments)] => (returns, name, arguments),
        _ => return Err(form.unsupported("indirect calls")),
    };
    let function = lw.functions.get(name.as_str()).copied();
    let Some(function) = function else {
        return match lw.lookup(name)? {
            Some(_) => Err(form.unsupported("indirect calls")),
            None => Err(Error::UnknownName { at: lw.at, what: "function", name: name.clone() }),
        };
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

fn inline<'m>(
    lw: &mut Lowerer<'m>,
    form: &Form<'_>,
    function: &'m Function,
    returns: &[Operand],
    arguments: &[Operand],
) -> Result<(), Error> {
    if lw.call_depth >= MAX_CALL_DEPTH {
        return Err(form.unsupported("recursion, or calls nested more than 32 deep"));
    }
    if function.params.len() != arguments.len() || function.returns.len() != returns.len() {
        return Err(Error::syntax(
            lw.at,
            format!("{} arguments and {} results", function.params.len(), function.returns.len()),
            format!("{} and {}", arguments.len(), returns.len()),
        ));
    }
    // The callee's parameters are the caller's variables under other names.
    let mut bound = Vec::new();
    let pairs = function.params.iter().zip(arguments).chain(function.returns.iter().zip(returns));
    for (variable, operand) in pairs {
        let symbol = match operand {
            Operand::Name(name) => lw.symbol(name, "argument")?,
            _ => return lw.operand_error("a variable in parameter space", operand),
        };
        if !matches!(symbol, Symbol::Parameter(_) | Symbol::Memory { .. }) {
            return lw.operand_error("a variable in parameter space", operand);
        }
        bound.push((variable.name.as_str(), symbol));
    }
    let end = lw.new_label();
    let skip = match lw.guard {
        Guard::Always => None,
        Guard::If(p) => Some(Guard::Unless(p)),
        Guard::Unless(p) => Some(Guard::If(p)),
    };
    if let Some(guard) = skip {
        lw.guard = guard;
        lw.push(Op::Branch { target: end });
    }
    let saved = (lw.function_base, lw.return_label.replace(end), lw.at, lw.source);
    lw.function_base = lw.scopes.len();
    lw.call_depth += 1;
    lw.scopes.push(Scope::default());
    for (name, symbol) in bound {
        lw.define(name, symbol)?;
    }
    lw.body(function)?;
    lw.scopes.pop();
    lw.call_depth -= 1;
    (lw.function_base, lw.return_label, lw.at, lw.source) = saved;
    lw.guard = Guard::Always;
    lw.place(end);
    Ok(())
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
