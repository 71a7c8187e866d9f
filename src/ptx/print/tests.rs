//! Modules of every shape, printed and read again.

use crate::ptx::ast::{Base, Function, Initial, Instruction, Module, Operand, Statement, Variable};
use crate::ptx::error::Position;
use crate::ptx::parse;
use crate::ptx::types::{Space, Type};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const AT: Position = Position { line: 0, column: 0 };

fn word() -> impl Strategy<Value = String> {
    "[%_$a-zA-Z][a-zA-Z0-9_$]{0,5}"
}

fn dotted() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9_]{1,5}",
        "[a-z]{1,3}::[a-z0-9]{1,3}",
        Just("align".to_owned()),
        Just("branchtargets".to_owned())
    ]
}

/// What an operand may be called: a special register has a component.
fn name() -> impl Strategy<Value = String> {
    (word(), option::of("[xyzw]")).prop_map(|(word, part)| part.map_or(word.clone(), |part| format!("{word}.{part}")))
}

fn offset() -> impl Strategy<Value = i64> {
    prop_oneof![any::<i64>(), -64..64i64, Just(i64::MIN)]
}

fn operand() -> impl Strategy<Value = Operand> {
    let base = (option::of(word()), offset())
        .prop_map(|(name, offset)| Operand::Address { base: name.map_or(Base::Absolute, Base::Name), offset });
    let leaf = prop_oneof![
        name().prop_map(Operand::Name),
        (name(), offset().prop_filter("an offset of 0 is a name", |o| *o != 0))
            .prop_map(|(n, o)| Operand::Offset(n, o)),
        any::<u64>().prop_map(Operand::Int),
        any::<u32>().prop_map(Operand::F32),
        any::<u64>().prop_map(Operand::F64),
        base,
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        // `!a|b` is a negated pair and `a|b|c` pairs to the right: the text has no other form.
        let first = inner.clone().prop_filter("binds otherwise", |o| !matches!(o, Operand::Not(_) | Operand::Pair(..)));
        prop_oneof![
            inner.clone().prop_map(|o| Operand::Not(Box::new(o))),
            (first, inner.clone()).prop_map(|(a, b)| Operand::Pair(Box::new(a), Box::new(b))),
            vec(inner.clone(), 0..4).prop_map(Operand::Vector),
            (word(), vec(inner.clone(), 1..3))
                .prop_map(|(name, rest)| Operand::Place(std::iter::once(Operand::Name(name)).chain(rest).collect())),
            vec(inner, 0..4).prop_map(Operand::List),
        ]
    })
}

fn space() -> impl Strategy<Value = Space> {
    prop::sample::select(vec![Space::Reg, Space::Param, Space::Local, Space::Shared, Space::Global, Space::Const])
}

fn ty() -> impl Strategy<Value = Type> {
    prop::sample::select(vec![
        Type::Pred,
        Type::B8,
        Type::U16,
        Type::S32,
        Type::B64,
        Type::F16x2,
        Type::Bf16,
        Type::Tf32,
    ])
}

fn initial() -> impl Strategy<Value = Initial> {
    prop_oneof![
        any::<u64>().prop_map(Initial::Int),
        any::<u32>().prop_map(Initial::F32),
        any::<u64>().prop_map(Initial::F64),
        (word(), offset(), any::<bool>(), option::of(any::<u64>()))
            .prop_map(|(name, offset, generic, mask)| Initial::Symbol { name, offset, generic, mask }),
    ]
}

/// A variable as it may stand alone, or (`plain`) in a list of parameters.
fn variable(plain: bool) -> impl Strategy<Value = Variable> {
    let head = (word(), space(), ty(), prop::sample::select(vec![1, 2, 4]));
    let tail = (option::of((0..20u32).prop_map(|n| 1u64 << n)), option::of(any::<u64>()), option::of(0..9u64));
    let initial = if plain { vec(initial(), 0..1) } else { vec(initial(), 0..4) };
    (head, tail, initial).prop_map(|((name, space, ty, vector), (align, array, range), initial)| Variable {
        name,
        space,
        ty,
        vector,
        align,
        array,
        range,
        initial,
        is_extern: false,
        at: AT,
    })
}

fn instruction() -> impl Strategy<Value = Statement> {
    let parts = (option::of((word(), any::<bool>())), word(), vec(dotted(), 0..3), vec(operand(), 0..4));
    parts.prop_map(|(guard, opcode, modifiers, operands)| {
        Statement::Instruction(Instruction { guard, opcode, modifiers, operands, at: AT })
    })
}

fn statement() -> impl Strategy<Value = Statement> {
    let leaf = prop_oneof![
        3 => instruction(),
        1 => word().prop_map(|name| Statement::Label(name, AT)),
        1 => variable(false).prop_map(Statement::Variable),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(file, line)| Statement::Loc { file, line }),
        1 => (word(), any::<bool>(), vec(word(), 1..4))
            .prop_map(|(name, of_calls, labels)| Statement::Targets { name, of_calls, labels }),
        1 => (word(), vec(variable(true), 0..2), vec(variable(true), 0..3))
            .prop_map(|(name, returns, params)| Statement::Prototype { name, returns, params }),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| vec(inner, 0..4).prop_map(Statement::Block))
}

fn function() -> impl Strategy<Value = Function> {
    let directive = dotted().prop_filter("a directive of its own", |d| d != "pragma");
    let head = (word(), any::<bool>(), vec(variable(true), 0..3), vec(variable(true), 0..2));
    let tail = (vec((directive, vec(any::<u64>(), 0..3)), 0..2), option::of(vec(statement(), 0..6)));
    (head, tail).prop_map(|((name, is_entry, params, returns), (directives, body))| Function {
        name,
        is_entry,
        params,
        returns: if is_entry { Vec::new() } else { returns },
        directives,
        body,
    })
}

fn module() -> impl Strategy<Value = Module> {
    let global = (variable(false), any::<bool>()).prop_map(|(v, is_extern)| Variable { is_extern, ..v });
    let file = (any::<u64>(), r#"([ -!#-\[\]-~é]|\\.){0,8}"#);
    let parts = (0..100u32, 0..10u32, word(), vec(global, 0..3), vec(function(), 0..3), vec(file, 0..3));
    parts.prop_map(|(major, minor, target, variables, functions, files)| Module {
        version: (major, minor),
        target,
        variables,
        functions,
        files,
        lines: [].into(),
    })
}

proptest! {
    #[test]
    fn reading_what_was_printed_gives_the_same_module(module in module()) {
        let text = module.to_string();
        let read = parse(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert!(read.is_same_as(&module), "{}\nfound {:#?}\nexpected {:#?}", text, read, module);
    }
}

#[test]
fn different_modules_are_not_the_same() {
    let read = |body: &str| parse(&format!(".version 8.4\n.entry k() {{ {body} }}")).unwrap();
    assert!(read("a:\n ret;").is_same_as(&read("a: ret;")));
    assert!(!read("ret;").is_same_as(&read("exit;")));
    assert!(!read("add.u32 a, b, -1;").is_same_as(&read("add.u32 a, b, 0fBF800000;")));
}

#[test]
fn printed_text_looks_like_ptx() {
    let text = "\
.version 8.4
.target sm_80
.address_size 64
.file 1 \"a.cu\"
.global .align 4 .b32 x[2] = {1, generic(y)+4};

.visible .entry k(.param .u64 p)
.maxntid 64, 1, 1
{
\t.reg .b32 %r<4>;
\t.loc 1 7 0
LOOP:
\t@!%p1 ld.param.v2.u32 {%r1, %r2}, [p+4];
\t{
\t\tcall.uni (r), f, (a, -1);
\t}
\tshfl.sync.bfly.b32 %r1|%p1, %r2, %tid.x, 0f3F800000;
}
";
    assert_eq!(parse(text).unwrap().to_string(), text);
}
