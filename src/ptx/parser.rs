//! Tokens to a [`Module`].
//!
//! Checks shape only; whether names exist and instructions make sense is for lowering to say.
//! Nesting is bounded, so no input can exhaust the stack.

use super::ast::{Base, Function, Initial, Instruction, Module, Operand, Statement, Variable};
use super::error::{Error, Position};
use super::lexer::{Kind, Token, tokens};
use super::types::{Space, Type};

/// Reads one module.
///
/// # Errors
/// [`Error::Syntax`] where the text stops being PTX, [`Error::Unsupported`] for directives this program doesn't know.
pub fn parse(text: &str) -> Result<Module, Error> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, depth: 0 };
    let mut module = Module {
        version: (0, 0),
        target: String::new(),
        variables: Vec::new(),
        functions: Vec::new(),
        files: Vec::new(),
        lines: text.lines().map(str::to_owned).collect(),
    };
    parser.module(&mut module)?;
    Ok(module)
}

const MAX_NESTING: u32 = 64;

struct Parser<'a, 't> {
    tokens: &'a [Token<'t>],
    at: usize,
    depth: u32,
}

impl<'t> Parser<'_, 't> {
    fn token(&self, ahead: usize) -> Token<'t> {
        let last = self.tokens.len().saturating_sub(1);
        let end = Token { kind: Kind::End, at: Position::default() };
        self.tokens.get((self.at + ahead).min(last)).copied().unwrap_or(end)
    }

    fn peek(&self) -> Kind<'t> {
        self.token(0).kind
    }

    fn position(&self) -> Position {
        self.token(0).at
    }

    fn bump(&mut self) -> Kind<'t> {
        let kind = self.peek();
        self.at += 1;
        kind
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T, Error> {
        Err(Error::syntax(self.position(), expected, self.peek().to_string()))
    }

    fn eat(&mut self, punct: char) -> bool {
        let hit = self.peek() == Kind::Punct(punct);
        if hit {
            self.at += 1;
        }
        hit
    }

    fn expect(&mut self, punct: char) -> Result<(), Error> {
        if self.eat(punct) { Ok(()) } else { self.unexpected(&format!("`{punct}`")) }
    }

    fn word(&mut self, what: &str) -> Result<&'t str, Error> {
        match self.peek() {
            Kind::Word(w) => {
                self.at += 1;
                Ok(w)
            }
            _ => self.unexpected(what),
        }
    }

    fn int(&mut self, what: &str) -> Result<u64, Error> {
        match self.peek() {
            Kind::Int(n) => {
                self.at += 1;
                Ok(n)
            }
            _ => self.unexpected(what),
        }
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth >= MAX_NESTING {
            return Err(Error::TooLarge {
                at: self.position(),
                what: "nested brackets",
                limit: MAX_NESTING.into(),
                found: u64::from(self.depth) + 1,
            });
        }
        self.depth += 1;
        let out = inner(self);
        self.depth -= 1;
        out
    }

    fn skip_line(&mut self) {
        let line = self.position().line;
        while self.position().line == line && self.peek() != Kind::End {
            self.at += 1;
        }
    }

    fn module(&mut self, module: &mut Module) -> Result<(), Error> {
        loop {
            let at = self.position();
            let Kind::Dotted(directive) = self.peek() else {
                return match self.peek() {
                    Kind::End => Ok(()),
                    Kind::Punct(';') => {
                        self.at += 1;
                        continue;
                    }
                    _ => self.unexpected("a directive"),
                };
            };
            match directive {
                "version" => {
                    self.at += 1;
                    module.version = self.version()?;
                }
                "target" => {
                    self.at += 1;
                    module.target = self.word("a target such as sm_80")?.to_owned();
                    while self.eat(',') {
                        self.word("a target option")?;
                    }
                }
                "address_size" => {
                    self.at += 1;
                    let bits = self.int("64")?;
                    if bits != 64 {
                        return Err(Error::unsupported(at, ".address_size", format!("{bits}-bit addresses")));
                    }
                }
                "file" => self.file(module)?,
                "section" => self.section()?,
                "pragma" | "alias" => while !matches!(self.bump(), Kind::Punct(';') | Kind::End) {},
                _ => self.declaration(module)?,
            }
        }
    }

    fn version(&mut self) -> Result<(u32, u32), Error> {
        let at = self.position();
        match self.bump() {
            // `8.4` reads as a decimal number; its text has one digit after the point.
            Kind::F64(bits) => {
                let tenths = (f64::from_bits(bits) * 10.0).round() as u32;
                Ok((tenths / 10, tenths % 10))
            }
            other => Err(Error::syntax(at, "a version such as 8.4", other.to_string())),
        }
    }

    fn file(&mut self, module: &mut Module) -> Result<(), Error> {
        self.at += 1;
        let index = self.int("a file index")?;
        let Kind::Text(path) = self.peek() else {
            return self.unexpected("a quoted path");
        };
        let path = path.to_owned();
        self.skip_line();
        module.files.push((index, path));
        Ok(())
    }

    fn section(&mut self) -> Result<(), Error> {
        while self.peek() != Kind::Punct('{') {
            if self.bump() == Kind::End {
                return self.unexpected("`{`");
            }
        }
        let mut open = 0u32;
        loop {
            match self.bump() {
                Kind::Punct('{') => open += 1,
                Kind::Punct('}') if open <= 1 => return Ok(()),
                Kind::Punct('}') => open -= 1,
                Kind::End => return self.unexpected("`}`"),
                _ => {}
            }
        }
    }

    fn declaration(&mut self, module: &mut Module) -> Result<(), Error> {
        let mut is_extern = false;
        loop {
            match self.peek() {
                Kind::Dotted("extern") => {
                    is_extern = true;
                    self.at += 1;
                }
                Kind::Dotted("visible" | "weak" | "common") => self.at += 1,
                Kind::Dotted("entry") => {
                    self.at += 1;
                    let function = self.function(true)?;
                    module.functions.push(function);
                    return Ok(());
                }
                Kind::Dotted("func") => {
                    self.at += 1;
                    let function = self.function(false)?;
                    module.functions.push(function);
                    return Ok(());
                }
                _ => {
                    let mut found = self.variables(is_extern)?;
                    module.variables.append(&mut found);
                    return Ok(());
                }
            }
        }
    }

    fn function(&mut self, is_entry: bool) -> Result<Function, Error> {
        let returns = if !is_entry && self.peek() == Kind::Punct('(') { self.parameters()? } else { Vec::new() };
        let name = self.word("a function name")?.to_owned();
        let params = if self.peek() == Kind::Punct('(') { self.parameters()? } else { Vec::new() };
        let mut function = Function { name, is_entry, params, returns, directives: Vec::new(), body: None };
        loop {
            match self.peek() {
                Kind::Punct(';') => {
                    self.at += 1;
                    return Ok(function);
                }
                Kind::Punct('{') => {
                    self.at += 1;
                    function.body = Some(self.nested(Self::statements)?);
                    return Ok(function);
                }
                Kind::Dotted("pragma") => while !matches!(self.bump(), Kind::Punct(';') | Kind::End) {},
                Kind::Dotted(name) => {
                    self.at += 1;
                    let mut numbers = Vec::new();
                    while let Kind::Int(n) = self.peek() {
                        self.at += 1;
                        numbers.push(n);
                        self.eat(',');
                    }
                    function.directives.push((name.to_owned(), numbers));
                }
                _ => return self.unexpected("a function body"),
            }
        }
    }

    fn parameters(&mut self) -> Result<Vec<Variable>, Error> {
        self.expect('(')?;
        let mut out = Vec::new();
        while !self.eat(')') {
            out.push(self.variable_head(false)?.0);
            if self.peek() != Kind::Punct(')') {
                self.expect(',')?;
            }
        }
        Ok(out)
    }

    /// Space, attributes, type, name and array size of one variable, plus what the next one on the line shares.
    fn variable_head(&mut self, is_extern: bool) -> Result<(Variable, Variable), Error> {
        let at = self.position();
        let space = match self.peek() {
            Kind::Dotted("reg") => Space::Reg,
            Kind::Dotted("param") => Space::Param,
            Kind::Dotted("local") => Space::Local,
            Kind::Dotted("shared" | "shared::cta") => Space::Shared,
            Kind::Dotted("global") => Space::Global,
            Kind::Dotted("const") => Space::Const,
            Kind::Dotted(other) => {
                return Err(Error::unsupported(at, format!(".{other}"), "unknown directive"));
            }
            _ => return self.unexpected("a state space"),
        };
        self.at += 1;
        let (mut ty, mut align, mut vector) = (None, None, 1);
        while let Kind::Dotted(word) = self.peek() {
            let word_at = self.position();
            self.at += 1;
            match word {
                "align" => align = Some(self.int("an alignment")?),
                "v2" => vector = 2,
                "v4" => vector = 4,
                "ptr" | "global" | "shared" | "local" | "const" => {}
                "attribute" => while !matches!(self.bump(), Kind::Punct(')') | Kind::End) {},
                // Two halves side by side: the instructions that know the type only move it.
                "b128" if vector == 1 => (ty, vector) = (Some(Type::B64), 2),
                // Handles: only instructions that are refused look into them.
                "texref" | "samplerref" | "surfref" => ty = Some(Type::B64),
                _ => match Type::from_name(word) {
                    Some(found) => ty = Some(found),
                    None => {
                        return Err(Error::unsupported(word_at, format!(".{word}"), "unknown type or attribute"));
                    }
                },
            }
        }
        let Some(ty) = ty else {
            return self.unexpected("a type");
        };
        if align.is_some_and(|a| !a.is_power_of_two() || a > 1 << 20) {
            return Err(Error::syntax(at, "an alignment that is a power of two up to 2^20", format!("{align:?}")));
        }
        let shared = Variable {
            name: String::new(),
            space,
            ty,
            vector,
            align,
            array: None,
            range: None,
            initial: Vec::new(),
            is_extern,
            at,
        };
        let first = self.variable_name(&shared)?;
        Ok((first, shared))
    }

    fn variable_name(&mut self, shared: &Variable) -> Result<Variable, Error> {
        let mut variable = Variable { at: self.position(), ..shared.clone() };
        variable.name = self.word("a variable name")?.to_owned();
        if self.eat('<') {
            variable.range = Some(self.int("the number of registers")?);
            self.expect('>')?;
        }
        while self.eat('[') {
            let size = if let Kind::Int(n) = self.peek() {
                self.at += 1;
                self.constant(n, 0)?
            } else {
                0
            };
            self.expect(']')?;
            variable.array = Some(variable.array.unwrap_or(1).saturating_mul(size));
        }
        Ok(variable)
    }

    fn variables(&mut self, is_extern: bool) -> Result<Vec<Variable>, Error> {
        let (first, shared) = self.variable_head(is_extern)?;
        let mut out = vec![first];
        loop {
            if self.eat('=')
                && let Some(variable) = out.last_mut()
            {
                let mut initial = Vec::new();
                self.initial(&mut initial)?;
                variable.initial = initial;
            }
            if self.eat(',') {
                out.push(self.variable_name(&shared)?);
            } else {
                self.expect(';')?;
                return Ok(out);
            }
        }
    }

    fn initial(&mut self, out: &mut Vec<Initial>) -> Result<(), Error> {
        if self.eat('{') {
            return self.nested(|p| {
                while !p.eat('}') {
                    p.initial(out)?;
                    if p.peek() != Kind::Punct('}') {
                        p.expect(',')?;
                    }
                }
                Ok(())
            });
        }
        let item = match self.operand()? {
            Operand::Int(mask) if self.eat('(') => {
                let item = self.nested(Self::address_item)?;
                self.expect(')')?;
                let Initial::Symbol { name, offset, generic, .. } = item else {
                    return self.unexpected("an address");
                };
                Initial::Symbol { name, offset, generic, mask: Some(mask) }
            }
            Operand::Int(n) => Initial::Int(n),
            Operand::F32(bits) => Initial::F32(bits),
            Operand::F64(bits) => Initial::F64(bits),
            Operand::Name(name) => self.symbol_item(name, 0)?,
            Operand::Offset(name, offset) => self.symbol_item(name, offset)?,
            _ => return self.unexpected("an initial value"),
        };
        out.push(item);
        Ok(())
    }

    fn address_item(&mut self) -> Result<Initial, Error> {
        match self.operand()? {
            Operand::Name(name) => self.symbol_item(name, 0),
            Operand::Offset(name, offset) => self.symbol_item(name, offset),
            _ => self.unexpected("an address"),
        }
    }

    /// `name+4`, whose name and offset are read, or `generic(name)+4`.
    fn symbol_item(&mut self, name: String, offset: i64) -> Result<Initial, Error> {
        if name != "generic" || !self.eat('(') {
            return Ok(Initial::Symbol { name, offset, generic: false, mask: None });
        }
        let name = self.word("a variable")?.to_owned();
        self.expect(')')?;
        Ok(Initial::Symbol { name, offset: self.offset()?, generic: true, mask: None })
    }

    fn statements(&mut self) -> Result<Vec<Statement>, Error> {
        let mut out = Vec::new();
        loop {
            let at = self.position();
            match self.peek() {
                Kind::Punct('}') => {
                    self.at += 1;
                    return Ok(out);
                }
                Kind::Punct('{') => {
                    self.at += 1;
                    out.push(Statement::Block(self.nested(Self::statements)?));
                }
                Kind::Punct(';') => self.at += 1,
                Kind::Dotted("loc") => {
                    self.at += 1;
                    let file = self.int("a file index")?;
                    let line = self.int("a line")?;
                    self.at -= 1;
                    self.skip_line();
                    out.push(Statement::Loc { file, line });
                }
                Kind::Dotted("pragma") => while !matches!(self.bump(), Kind::Punct(';') | Kind::End) {},
                Kind::Dotted("visible" | "extern") => self.at += 1,
                Kind::Dotted(_) => out.extend(self.variables(false)?.into_iter().map(Statement::Variable)),
                Kind::Word(word) if self.token(1).kind == Kind::Punct(':') => {
                    self.at += 2;
                    let name = word.to_owned();
                    out.push(match self.peek() {
                        Kind::Dotted(directive @ ("branchtargets" | "calltargets")) => {
                            self.at += 1;
                            let of_calls = directive == "calltargets";
                            Statement::Targets { name, of_calls, labels: self.labels()? }
                        }
                        Kind::Dotted("callprototype") => {
                            self.at += 1;
                            self.prototype(name)?
                        }
                        _ => Statement::Label(name, at),
                    });
                }
                Kind::Word(_) | Kind::Punct('@') => out.push(Statement::Instruction(self.instruction()?)),
                _ => return self.unexpected("an instruction"),
            }
        }
    }

    fn prototype(&mut self, name: String) -> Result<Statement, Error> {
        let returns = if self.peek() == Kind::Punct('(') { self.parameters()? } else { Vec::new() };
        self.word("`_`")?;
        let params = if self.peek() == Kind::Punct('(') { self.parameters()? } else { Vec::new() };
        while matches!(self.peek(), Kind::Dotted(_) | Kind::Int(_)) {
            self.at += 1;
        }
        self.expect(';')?;
        Ok(Statement::Prototype { name, returns, params })
    }

    fn labels(&mut self) -> Result<Vec<String>, Error> {
        let mut labels = vec![self.word("a label")?.to_owned()];
        while self.eat(',') {
            labels.push(self.word("a label")?.to_owned());
        }
        self.expect(';')?;
        Ok(labels)
    }

    fn instruction(&mut self) -> Result<Instruction, Error> {
        let mut guard = None;
        if self.eat('@') {
            let negated = self.eat('!');
            guard = Some((self.word("a predicate")?.to_owned(), negated));
        }
        let at = self.position();
        let opcode = self.word("an opcode")?.to_owned();
        let mut modifiers = Vec::new();
        while let Kind::Dotted(modifier) = self.peek() {
            self.at += 1;
            modifiers.push(modifier.to_owned());
        }
        let mut operands = Vec::new();
        while !self.eat(';') {
            operands.push(self.operand()?);
            if self.peek() != Kind::Punct(';') {
                self.expect(',')?;
            }
        }
        Ok(Instruction { guard, opcode, modifiers, operands, at })
    }

    fn operand(&mut self) -> Result<Operand, Error> {
        let operand = match self.peek() {
            Kind::Punct('[') => {
                self.at += 1;
                self.address()?
            }
            Kind::Punct('{') => {
                self.at += 1;
                Operand::Vector(self.nested(|p| p.operands_until('}'))?)
            }
            Kind::Punct('(') => {
                self.at += 1;
                Operand::List(self.nested(|p| p.operands_until(')'))?)
            }
            Kind::Punct('!') => {
                self.at += 1;
                Operand::Not(Box::new(self.nested(Self::operand)?))
            }
            Kind::Punct('-') => {
                self.at += 1;
                match self.bump() {
                    Kind::Int(n) => Operand::Int(self.constant(n.wrapping_neg(), 0)?),
                    Kind::F32(bits) => Operand::F32(bits ^ (1 << 31)),
                    Kind::F64(bits) => Operand::F64(bits ^ (1 << 63)),
                    _ => {
                        self.at -= 1;
                        return self.unexpected("a number");
                    }
                }
            }
            Kind::Int(n) => {
                self.at += 1;
                Operand::Int(self.constant(n, 0)?)
            }
            Kind::F32(bits) => {
                self.at += 1;
                Operand::F32(bits)
            }
            Kind::F64(bits) => {
                self.at += 1;
                Operand::F64(bits)
            }
            Kind::Word(word) => {
                self.at += 1;
                let mut name = word.to_owned();
                while let Kind::Dotted(part) = self.peek() {
                    self.at += 1;
                    name.push('.');
                    name.push_str(part);
                }
                match self.offset()? {
                    0 => Operand::Name(name),
                    offset => Operand::Offset(name, offset),
                }
            }
            _ => return self.unexpected("an operand"),
        };
        if self.eat('|') {
            let second = self.nested(Self::operand)?;
            return Ok(Operand::Pair(Box::new(operand), Box::new(second)));
        }
        Ok(operand)
    }

    fn operands_until(&mut self, close: char) -> Result<Vec<Operand>, Error> {
        let mut out = Vec::new();
        while !self.eat(close) {
            out.push(self.operand()?);
            if self.peek() != Kind::Punct(close) {
                self.expect(',')?;
            }
        }
        Ok(out)
    }

    fn address(&mut self) -> Result<Operand, Error> {
        let (base, offset) = match self.peek() {
            Kind::Word(word) => {
                self.at += 1;
                (Base::Name(word.to_owned()), self.offset()?)
            }
            Kind::Int(n) => {
                self.at += 1;
                (Base::Absolute, n as i64)
            }
            _ => return self.unexpected("an address"),
        };
        if self.eat(',') {
            let mut parts = vec![match base {
                Base::Name(name) if offset == 0 => Operand::Name(name),
                Base::Name(name) => Operand::Offset(name, offset),
                Base::Absolute => Operand::Int(offset as u64),
            }];
            parts.append(&mut self.nested(|p| p.operands_until(']'))?);
            return Ok(Operand::Place(parts));
        }
        self.expect(']')?;
        Ok(Operand::Address { base, offset })
    }

    /// `+n`, `-n`, `+-n`, several of them, or nothing.
    fn offset(&mut self) -> Result<i64, Error> {
        let mut total = 0i64;
        loop {
            let mut negative = false;
            if self.eat('+') {
                negative ^= self.eat('-');
            } else if self.eat('-') {
                negative = true;
            } else {
                return Ok(total);
            }
            let n = self.int("an offset")?;
            let n = self.constant(n, PRODUCT)? as i64;
            total = if negative { total.wrapping_sub(n) } else { total.wrapping_add(n) };
        }
    }

    /// The rest of a constant expression whose first number is read, as far as operators bind at least as `tightly`
    /// (PTX ISA, "Constant Expressions"). Its numbers may be in parentheses, but for the first.
    fn constant(&mut self, first: u64, tightly: u32) -> Result<u64, Error> {
        let mut value = first;
        loop {
            let at = self.position();
            let doubled = self.token(1).kind == self.peek();
            let (operator, binds) = match self.peek() {
                Kind::Punct(c @ ('*' | '/')) => (c, PRODUCT),
                Kind::Punct(c @ ('+' | '-')) => (c, 3),
                Kind::Punct(c @ ('<' | '>')) if doubled => (c, 2),
                Kind::Punct(c @ '&') => (c, 1),
                Kind::Punct(c @ '^') => (c, 0),
                _ => return Ok(value),
            };
            if binds < tightly {
                return Ok(value);
            }
            self.at += if matches!(operator, '<' | '>') { 2 } else { 1 };
            let right = self.nested(|p| p.number())?;
            let right = self.nested(|p| p.constant(right, binds + 1))?;
            value = match operator {
                '*' => value.wrapping_mul(right),
                '/' if right == 0 => return Err(Error::syntax(at, "a divisor other than 0", "`0`")),
                '/' => (value as i64).wrapping_div(right as i64) as u64,
                '+' => value.wrapping_add(right),
                '-' => value.wrapping_sub(right),
                '<' => value.wrapping_shl(right as u32),
                '>' => (value as i64).wrapping_shr(right as u32) as u64,
                '&' => value & right,
                _ => value ^ right,
            };
        }
    }

    /// A number, perhaps negative, or an expression in parentheses.
    fn number(&mut self) -> Result<u64, Error> {
        if self.eat('-') {
            return Ok(self.nested(Self::number)?.wrapping_neg());
        }
        if self.eat('(') {
            let first = self.nested(Self::number)?;
            let value = self.nested(|p| p.constant(first, 0))?;
            self.expect(')')?;
            return Ok(value);
        }
        self.int("a number")
    }
}

/// How tightly a product binds.
const PRODUCT: u32 = 4;
