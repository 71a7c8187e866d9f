//! A module with one instruction replaced, as a tool that makes faulty kernels needs it.

use super::ast::{Instruction, Module, Statement};
use super::error::{Error, Position};
use super::parser::parse;

/// An instruction where it stands.
#[derive(Clone, Debug)]
pub struct Place<'m> {
    /// The instruction.
    pub instruction: &'m Instruction,
    /// The function it is in.
    pub function: &'m str,
    /// Whether that is a kernel, which nothing else calls.
    pub is_entry: bool,
    /// `.loc` in force: path and line.
    pub source: Option<(&'m str, u64)>,
    /// Its function's index, and its own among the function's instructions.
    index: (usize, usize),
}

impl Module {
    /// Every instruction, in the order of the text.
    pub fn places(&self) -> Vec<Place<'_>> {
        let mut places = Vec::new();
        for (function, owner) in self.functions.iter().enumerate() {
            let (mut index, mut source) = (0, None);
            visit(owner.body.as_deref().unwrap_or_default(), &mut |statement| match statement {
                Statement::Loc { file, line } => {
                    let path = self.files.iter().find(|(number, _)| number == file).map(|(_, path)| path.as_str());
                    source = path.map(|path| (path, *line));
                }
                Statement::Instruction(instruction) => {
                    let index_in_module = (function, index);
                    index += 1;
                    places.push(Place {
                        instruction,
                        function: &owner.name,
                        is_entry: owner.is_entry,
                        source,
                        index: index_in_module,
                    });
                }
                _ => {}
            });
        }
        places
    }

    /// This module with the statements `text` in place of an instruction, and without the kernels that it isn't in.
    /// The new instructions stand where the old one did.
    ///
    /// # Errors
    /// Those of [`parse`], with positions within `text`.
    pub fn replaced(&self, place: &Place<'_>, text: &str) -> Result<Self, Error> {
        let parsed = parse(&format!(".func replacement() {{ {text} }}"))?;
        let mut replacement = parsed.functions.into_iter().find_map(|f| f.body).unwrap_or_default();
        move_to(&mut replacement, place.instruction.at);
        let (function, mut index) = place.index;
        let is_kept = |(i, f): &(usize, &super::ast::Function)| *i == function || !f.is_entry;
        let mut functions = Vec::new();
        for (i, kept) in self.functions.iter().enumerate().filter(is_kept) {
            let mut kept = kept.clone();
            if let (true, Some(body)) = (i == function, &mut kept.body) {
                replace(body, &mut index, &mut Some(std::mem::take(&mut replacement)));
            }
            functions.push(kept);
        }
        Ok(Self {
            version: self.version,
            target: self.target.clone(),
            variables: self.variables.clone(),
            functions,
            files: self.files.clone(),
            lines: self.lines.clone(),
        })
    }
}

impl Place<'_> {
    /// `ptx`, the text this place is in, with `text` instead of the instruction.
    pub fn spliced(&self, ptx: &str, text: &str) -> Option<String> {
        let line = ptx.split_inclusive('\n').take(self.instruction.at.line as usize - 1).map(str::len).sum::<usize>();
        let opcode = line + self.instruction.at.column as usize - 1;
        let start = match self.instruction.guard {
            Some(_) => ptx.get(..opcode)?.rfind('@')?,
            None => opcode,
        };
        let end = opcode + ptx.get(opcode..)?.find(';')? + 1;
        Some([ptx.get(..start)?, text, ptx.get(end..)?].concat())
    }
}

fn visit<'m>(statements: &'m [Statement], each: &mut impl FnMut(&'m Statement)) {
    for statement in statements {
        match statement {
            Statement::Block(inner) => visit(inner, each),
            other => each(other),
        }
    }
}

fn move_to(statements: &mut [Statement], at: Position) {
    for statement in statements {
        match statement {
            Statement::Instruction(instruction) => instruction.at = at,
            Statement::Variable(variable) => variable.at = at,
            Statement::Label(_, position) => *position = at,
            Statement::Block(inner) => move_to(inner, at),
            Statement::Loc { .. } | Statement::Targets { .. } | Statement::Prototype { .. } => {}
        }
    }
}

/// Puts `replacement` in the place of the instruction with this `index`, counted down on the way.
fn replace(statements: &mut Vec<Statement>, index: &mut usize, replacement: &mut Option<Vec<Statement>>) {
    for i in 0..statements.len() {
        match &mut statements[i] {
            Statement::Block(inner) => replace(inner, index, replacement),
            Statement::Instruction(_) if *index > 0 => *index -= 1,
            Statement::Instruction(_) => {
                if let Some(replacement) = replacement.take() {
                    statements.splice(i..=i, replacement);
                }
            }
            _ => {}
        }
        if replacement.is_none() {
            return;
        }
    }
}
