//! `__global__` functions of CUDA source, as far as their signatures go: no preprocessor, no types but by their names.

/// A `__global__` function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// Whether its name in the PTX is the same.
    pub(super) is_extern_c: bool,
    /// Type and name of each parameter of its template, if it is one; a name may be missing.
    pub(super) template: Vec<(String, Option<String>)>,
    /// Whether a macro's body has it, so that its name and types may be the macro's parameters.
    pub(super) is_macro: bool,
    /// Type and name of each parameter; the name may be missing.
    pub(super) params: Vec<(String, Option<String>)>,
    /// First number of `__launch_bounds__`, as written.
    pub(super) launch_bounds: Option<String>,
    /// For each axis, the variables that are made of `blockIdx` alone, in the order of the text.
    pub(super) block_indices: [Vec<String>; 3],
    /// Whether it takes shared memory whose size the launch says.
    pub(super) has_dynamic_shared: bool,
}

/// The functions that are defined in `text`, in its order.
pub(super) fn functions(text: &str) -> Vec<Function> {
    let text = without_comments(text);
    let mut functions = Vec::new();
    let mut from = 0;
    while let Some(found) = text[from..].find("__global__") {
        let start = from + found;
        let after = start + "__global__".len();
        match function(&text, start, after) {
            Some((function, end)) => {
                functions.push(function);
                from = end;
            }
            None => from = after,
        }
    }
    functions
}

/// The function whose `__global__` is there, and where its body ends; nothing for a declaration.
fn function(text: &str, start: usize, mut at: usize) -> Option<(Function, usize)> {
    let mut launch_bounds = None;
    let (name, params_at) = loop {
        let rest = &text[at..];
        let word_at = rest.find(is_word)?;
        if rest[..word_at].contains([';', '{', '}']) {
            return None;
        }
        let word: String = rest[word_at..].chars().take_while(|&c| is_word(c)).collect();
        at += word_at + word.len();
        if !text[at..].trim_start().starts_with('(') {
            continue;
        }
        let open = at + text[at..].find('(')?;
        let close = closing(text, open)?;
        match word.as_str() {
            "__launch_bounds__" => {
                launch_bounds = split(&text[open + 1..close]).first().map(|first| first.trim().to_owned());
                at = close + 1;
            }
            "__attribute__" | "__cluster_dims__" | "__align__" | "__block_size__" => at = close + 1,
            _ => break (word, open),
        }
    };
    let close = closing(text, params_at)?;
    let body = close + 1 + text[close + 1..].find(['{', ';'])?;
    if text[body..].starts_with(';') {
        return None;
    }
    // Conditional code may open a brace on each of its ways: the next kernel is never part of this one.
    let next = text[body..].find("__global__").map_or(text.len(), |at| body + at);
    let end = closing(text, body).map_or(next, |end| end.min(next));
    let params = split(&text[params_at + 1..close]).into_iter().map(|param| param_of(&param));
    let before = text[..start].rfind([';', '}']).map_or(0, |at| at + 1);
    let head = &text[before..start];
    let params = params.filter(|(ty, name)| !(ty.is_empty() || ty == "void" && name.is_none())).collect();
    let code = &text[body..end];
    Some((
        Function {
            is_extern_c: in_extern_c(&text[..start]) || head.contains("extern \"C\""),
            template: template_params(head),
            is_macro: head.rsplit_once(DEFINE).is_some_and(|(_, line)| !line.contains('\n')),
            name,
            params,
            launch_bounds,
            block_indices: ['x', 'y', 'z'].map(|axis| made_of_index(code, axis)),
            has_dynamic_shared: code.split(';').any(|part| part.contains("extern") && part.contains("__shared__")),
        },
        end,
    ))
}

/// What stands in the angle brackets of `template <...>`.
fn template_params(head: &str) -> Vec<(String, Option<String>)> {
    let Some(inside) = head.split_once("template").and_then(|(_, after)| after.trim_start().strip_prefix('<')) else {
        return Vec::new();
    };
    let mut depth = 1i32;
    let end = inside.find(|c| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        depth == 0
    });
    split(&inside[..end.unwrap_or(inside.len())]).into_iter().map(|param| param_of(&param)).collect()
}

/// Whether an `extern "C" {` is open at the end of `before`.
fn in_extern_c(before: &str) -> bool {
    before.match_indices("extern \"C\"").any(|(at, _)| {
        let rest = before[at + "extern \"C\"".len()..].trim_start();
        rest.starts_with('{') && closing(before, before.len() - rest.len()).is_none()
    })
}

/// `TYPE NAME`, with a default value and array brackets dropped.
fn param_of(text: &str) -> (String, Option<String>) {
    let text = text.split('=').next().unwrap_or("");
    let is_array = text.contains('[');
    let text = text.split('[').next().unwrap_or("").replace('*', " * ").replace('&', " & ");
    let ignored = ["__restrict__", "__restrict", "restrict", "__grid_constant__", "volatile"];
    let mut words: Vec<&str> = text.split_whitespace().filter(|word| !ignored.contains(word)).collect();
    let types = ["int", "float", "double", "long", "short", "char", "unsigned", "signed", "bool", "void", "half"];
    let is_name = |word: &str| word.chars().all(is_word) && !types.contains(&word) && word != "const";
    let meaning = words.iter().filter(|word| **word != "const").count();
    let name = words.last().filter(|last| meaning > 1 && is_name(last)).map(|last| (*last).to_owned());
    if name.is_some() {
        words.pop();
    }
    if is_array {
        words.push("*");
    }
    (words.join(" ").replace(" *", "*"), name)
}

/// Variables that `blockIdx` of an axis is put into: `int head = blockIdx.x`.
fn made_of_index(code: &str, axis: char) -> Vec<String> {
    let index = format!("blockIdx.{axis}");
    let statements = code.split([';', '{', '}', ',']);
    let made = statements.filter_map(|statement| {
        let (left, right) = statement.split_once('=')?;
        if !right.contains(&index) {
            return None;
        }
        let name = left.split(|c| !is_word(c)).rfind(|word| !word.is_empty())?;
        Some(name.to_owned())
    });
    let mut names: Vec<String> = made.collect();
    if names.is_empty() && code.contains(&index) {
        names.push(String::new());
    }
    names
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where the bracket at `open` is closed.
fn closing(text: &str, open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, c) in text[open..].char_indices() {
        match c {
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(open + at);
        }
    }
    None
}

/// Parts between commas that are in no bracket.
pub(super) fn split(text: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0i32);
    for c in text.chars() {
        match c {
            '(' | '<' | '[' | '{' => depth += 1,
            ')' | '>' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

/// What stands for `#define`, whose body is kept: kernels may be made by macros.
const DEFINE: &str = "@define";

/// The text with spaces for comments and other preprocessor lines, and strings emptied but for the C of `extern "C"`.
fn without_comments(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if let Some(body) = rest.strip_prefix("#define").filter(|_| at_line_start(&clean)) {
            clean.push(';');
            clean.push_str(DEFINE);
            rest = body;
            continue;
        } else if rest.starts_with("\\\n") {
            2
        } else if rest.starts_with("//") || rest.starts_with('#') && at_line_start(&clean) {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(after) = rest.strip_prefix("\"C\"") {
            clean.push_str("\"C\"");
            rest = after;
            continue;
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped || c == '\n';
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else {
            clean.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        clean.push(' ');
        rest = &rest[skipped..];
    }
    clean
}

fn at_line_start(text: &str) -> bool {
    text.rsplit('\n').next().is_none_or(|line| line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Function {
        let mut functions = functions(text);
        assert_eq!(functions.len(), 1, "{functions:?}");
        functions.remove(0)
    }

    fn params(text: &str) -> Vec<(String, Option<String>)> {
        only(&format!("__global__ void f({text}) {{}}")).params
    }

    #[test]
    fn a_signature_is_read_whatever_surrounds_it() {
        let function = only(
            r#"
            // __global__ void commented(int out) {}
            #define M "__global__ void quoted(int n) {"
            __global__ void declared(const float* q);
            extern "C" __global__ void __launch_bounds__(128, 2) decode(const float* __restrict__ q, /* rows */ int n) {
                extern __shared__ float tile[];
                const int b = 0, head = blockIdx.x;
                int split = blockIdx.y / 2;
                if (blockIdx.x == 0) { return; }
            }
            void host() { decode<<<1, 2>>>(0, 1); }
            "#,
        );
        assert_eq!(function.name, "decode");
        assert!(function.is_extern_c && function.template.is_empty() && function.has_dynamic_shared);
        let expected = [("const float*", "q"), ("int", "n")].map(|(ty, name)| (ty.to_owned(), Some(name.to_owned())));
        assert_eq!(function.params, expected);
        assert_eq!(function.launch_bounds.as_deref(), Some("128"));
        assert_eq!(function.block_indices, [vec!["head".to_owned()], vec!["split".to_owned()], vec![]]);
    }

    #[test]
    fn linkage_and_templates_are_told_apart() {
        let both = functions(
            "extern \"C\" { __global__ void a(int n) {} }\ntemplate <typename T, int D> __global__ void b(T* q) {}\n\
             namespace x { __global__ void c() { } }",
        );
        let told: Vec<_> =
            both.iter().map(|f| (f.name.as_str(), f.is_extern_c, f.template.len(), f.params.len())).collect();
        assert_eq!(told, [("a", true, 0, 1), ("b", false, 2, 1), ("c", false, 0, 0)]);
        let expected = [("typename", "T"), ("int", "D")].map(|(ty, name)| (ty.to_owned(), Some(name.to_owned())));
        assert_eq!(both[1].template, expected);
        let nested =
            only("template<template<class> class C, int = 4, bool causal = true>\n__global__ void f(C<int> c) {}");
        assert_eq!(
            nested.template.iter().map(|(_, name)| name.as_deref()).collect::<Vec<_>>(),
            [Some("C"), None, Some("causal")]
        );
    }

    #[test]
    fn parameters_of_every_form_have_a_type_and_a_name() {
        let expected = |ty: &str, name: Option<&str>| vec![(ty.to_owned(), name.map(str::to_owned))];
        assert_eq!(params("unsigned long long stride"), expected("unsigned long long", Some("stride")));
        assert_eq!(params("float *__restrict__ const out"), expected("float* const", Some("out")));
        assert_eq!(params("const Params<float, 2> __grid_constant__ p"), expected("const Params<float, 2>", Some("p")));
        assert_eq!(params("const int lens[]"), expected("const int*", Some("lens")));
        assert_eq!(params("float"), expected("float", None));
        assert_eq!(params("unsigned int"), expected("unsigned int", None));
        assert_eq!(params("int n = 4"), expected("int", Some("n")));
        assert_eq!(params("void"), Vec::new());
    }

    #[test]
    fn a_kernel_that_a_macro_makes_has_its_parameters() {
        let text = "#define KERNEL(NAME, T) \\\n  extern \"C\" __global__ void NAME(const T* q, \\\n int n) \\\n { body<T>(q, n); }\n\
                    #if 1\nKERNEL(f, float)\n#endif\n#define WIDTH 4\n__global__ void g(int n) {}\n";
        let both = functions(text);
        let told: Vec<_> = both.iter().map(|f| (f.name.as_str(), f.is_macro, f.params.len())).collect();
        assert_eq!(told, [("NAME", true, 2), ("g", false, 1)]);
        assert_eq!(both[0].params[1], ("int".to_owned(), Some("n".to_owned())));
    }

    #[test]
    fn braces_that_conditions_unbalance_end_with_the_function() {
        let text =
            "__global__ void a(int n) {\n#ifdef X\nfor (;;) {\n#else\nwhile (1) {\n#endif\n} int h = blockIdx.x; }\n";
        let both = functions(&format!("{text}__global__ void b(int head_dim, float* q) {{ }}"));
        assert_eq!(both.iter().map(|f| (f.name.as_str(), f.params.len())).collect::<Vec<_>>(), [("a", 1), ("b", 2)]);
        assert_eq!(both[0].block_indices[0], ["h"]);
    }

    #[test]
    fn broken_text_has_no_functions() {
        for text in ["__global__", "__global__ void f(", "__global__ void f(int a", "__global__ (", "/*"] {
            assert_eq!(functions(text), [], "{text}");
        }
    }
}
