//! A [`Module`] back as PTX text.
//!
//! [`parse`](super::parse) of the text gives an equal module ([`Module::is_same_as`]), so it lowers to the same programs
//! but for line numbers. What parsing leaves out is not printed: comments, `.pragma`, `.section`, target options,
//! linkage other than `.extern` of a variable, attributes of pointers. What has several spellings has one here: numbers
//! are decimal, floats hexadecimal, an initialiser is one flat list, a declaration declares one name.

use super::ast::{Base, Function, Initial, Instruction, Module, Operand, Statement, Variable};
use super::error::Position;
use super::types::Space;
use std::fmt::{self, Display, Formatter};

#[cfg(test)]
mod tests;

impl Module {
    /// Whether both modules say the same, wherever in their texts they say it.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let unplaced = |module: &Self| {
            let mut module = Self { lines: [].into(), ..module.clone() };
            module.variables.iter_mut().for_each(forget_variable);
            for function in &mut module.functions {
                function.params.iter_mut().chain(&mut function.returns).for_each(forget_variable);
                function.body.iter_mut().flatten().for_each(forget);
            }
            module
        };
        unplaced(self) == unplaced(other)
    }
}

/// Forgets where a statement was.
fn forget(statement: &mut Statement) {
    match statement {
        Statement::Label(_, at) => *at = Position::default(),
        Statement::Variable(variable) => forget_variable(variable),
        Statement::Instruction(instruction) => instruction.at = Position::default(),
        Statement::Block(inner) => inner.iter_mut().for_each(forget),
        Statement::Prototype { returns, params, .. } => returns.iter_mut().chain(params).for_each(forget_variable),
        Statement::Loc { .. } | Statement::Targets { .. } => {}
    }
}

fn forget_variable(variable: &mut Variable) {
    variable.at = Position::default();
}

impl Display for Module {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.version != (0, 0) {
            writeln!(f, ".version {}.{}", self.version.0, self.version.1)?;
        }
        if !self.target.is_empty() {
            writeln!(f, ".target {}", self.target)?;
        }
        writeln!(f, ".address_size 64")?;
        for (index, path) in &self.files {
            writeln!(f, ".file {index} \"{path}\"")?;
        }
        self.variables.iter().try_for_each(|variable| writeln!(f, "{variable};"))?;
        self.functions.iter().try_for_each(|function| write!(f, "\n{function}"))
    }
}

impl Display for Function {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_entry { ".visible .entry " } else { ".func " })?;
        if !self.returns.is_empty() {
            write!(f, "({}) ", Separated(&self.returns))?;
        }
        write!(f, "{}({})", self.name, Separated(&self.params))?;
        for (name, numbers) in &self.directives {
            write!(f, "\n.{name} {}", Separated(numbers))?;
        }
        match &self.body {
            None => writeln!(f, ";"),
            Some(body) => {
                f.write_str("\n{\n")?;
                statements(f, body, 1)?;
                f.write_str("}\n")
            }
        }
    }
}

fn statements(f: &mut Formatter<'_>, body: &[Statement], depth: usize) -> fmt::Result {
    for statement in body {
        if !matches!(statement, Statement::Label(..)) {
            f.write_str(&"\t".repeat(depth))?;
        }
        match statement {
            Statement::Label(name, _) => writeln!(f, "{name}:")?,
            Statement::Variable(variable) => writeln!(f, "{variable};")?,
            Statement::Instruction(instruction) => writeln!(f, "{instruction}")?,
            Statement::Block(inner) => {
                f.write_str("{\n")?;
                statements(f, inner, depth + 1)?;
                writeln!(f, "{}}}", "\t".repeat(depth))?;
            }
            Statement::Loc { file, line } => writeln!(f, ".loc {file} {line} 0")?,
            Statement::Targets { name, of_calls, labels } => {
                let directive = if *of_calls { "calltargets" } else { "branchtargets" };
                writeln!(f, "{name}: .{directive} {};", Separated(labels))?;
            }
            Statement::Prototype { name, returns, params } => {
                write!(f, "{name}: .callprototype ")?;
                if !returns.is_empty() {
                    write!(f, "({}) ", Separated(returns))?;
                }
                writeln!(f, "_ ({});", Separated(params))?;
            }
        }
    }
    Ok(())
}

impl Display for Variable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_extern { ".extern " } else { "" })?;
        f.write_str(match self.space {
            Space::Reg => ".reg",
            Space::Param => ".param",
            Space::Local => ".local",
            Space::Shared => ".shared",
            Space::Global => ".global",
            Space::Const => ".const",
        })?;
        if let Some(align) = self.align {
            write!(f, " .align {align}")?;
        }
        if self.vector > 1 {
            write!(f, " .v{}", self.vector)?;
        }
        write!(f, " {} {}", self.ty, self.name)?;
        if let Some(range) = self.range {
            write!(f, "<{range}>")?;
        }
        match self.array {
            Some(0) => f.write_str("[]")?,
            Some(count) => write!(f, "[{count}]")?,
            None => {}
        }
        if !self.initial.is_empty() {
            write!(f, " = {{{}}}", Separated(&self.initial))?;
        }
        Ok(())
    }
}

impl Display for Initial {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::F32(bits) => write!(f, "0f{bits:08X}"),
            Self::F64(bits) => write!(f, "0d{bits:016X}"),
            Self::Symbol { name, offset, generic, mask } => {
                if let Some(mask) = mask {
                    write!(f, "{mask}(")?;
                }
                if *generic { write!(f, "generic({name})") } else { f.write_str(name) }?;
                write_offset(f, *offset)?;
                f.write_str(if mask.is_some() { ")" } else { "" })
            }
        }
    }
}

impl Display for Instruction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some((name, negated)) = &self.guard {
            write!(f, "@{}{name} ", if *negated { "!" } else { "" })?;
        }
        f.write_str(&self.full_name())?;
        if !self.operands.is_empty() {
            write!(f, " {}", Separated(&self.operands))?;
        }
        f.write_str(";")
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Offset(name, offset) => {
                f.write_str(name)?;
                write_offset(f, *offset)
            }
            // Small negative numbers are easier to read with a sign, and mean the same 64 bits.
            Self::Int(n) => write!(f, "{}", *n as i64),
            Self::F32(bits) => write!(f, "0f{bits:08X}"),
            Self::F64(bits) => write!(f, "0d{bits:016X}"),
            Self::Not(inner) => write!(f, "!{inner}"),
            Self::Pair(first, second) => write!(f, "{first}|{second}"),
            Self::Vector(items) => write!(f, "{{{}}}", Separated(items)),
            Self::List(items) => write!(f, "({})", Separated(items)),
            Self::Address { base, offset } => match base {
                Base::Name(name) => {
                    write!(f, "[{name}")?;
                    write_offset(f, *offset)?;
                    f.write_str("]")
                }
                Base::Absolute => write!(f, "[{}]", *offset as u64),
            },
            Self::Place(parts) => write!(f, "[{}]", Separated(parts)),
        }
    }
}

/// `+4`, `-4` or nothing.
fn write_offset(f: &mut Formatter<'_>, offset: i64) -> fmt::Result {
    if offset == 0 { Ok(()) } else { write!(f, "{offset:+}") }
}

/// Items with commas between.
struct Separated<'i, T>(&'i [T]);

impl<T: Display> Display for Separated<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            item.fmt(f)?;
        }
        Ok(())
    }
}
