//! Runs instruction forms on a GPU and in the emulator and compares them bit for bit.

#[path = "../../tests/fidelity/forms/mod.rs"]
mod forms;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|a| a == "--dump") {
        for (index, form) in forms::form::forms().iter().enumerate() {
            std::fs::write(format!("{}/{index:04}_sm{}.ptx", arguments[2], form.arch), form.ptx()).unwrap();
        }
        return;
    }
    let mut lacking = 0;
    for form in forms::form::forms() {
        let cases = forms::operands::cases(&form, 4096, 128);
        if let Err(e) = forms::emulate::run(&form, &cases) {
            println!("{}: {e}", form.name);
            lacking += 1;
        }
    }
    println!("{} forms, {lacking} lacking", forms::form::forms().len());
}
