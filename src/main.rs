//! The `lpa` command. All of it is in the library.

fn main() -> std::process::ExitCode {
    lpa::cli::main(std::env::args_os()).into()
}
