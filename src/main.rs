//! The `pointsman` binary: arguments, runtime, exit code.

mod allocator;

use std::process::ExitCode;

use clap::Parser;
use pointsman::app;
use pointsman::cli::{Arguments, Command, Operation, UsersCommand, UsersFormat};
use pointsman::control;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    match arguments.command {
        Command::Serve { config } => serve(&config),
        Command::Check { file, syntax } => check(&file, syntax),
        Command::Operate(operation) => operate(&operation),
        Command::Users { command } => users(command),
    }
}

/// The control plane's runtime: signals, reloads, the admin listener. Sessions run on
/// the workers' own threads.
fn serve(path: &std::path::Path) -> ExitCode {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    match runtime.block_on(app::serve(path)) {
        Ok(()) => {
            runtime.shutdown_background();
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn check(path: &std::path::Path, syntax: bool) -> ExitCode {
    let checked = if syntax { control::check_syntax(path) } else { control::check(path) };
    match checked {
        Ok(config) => {
            pointsman::cli::say(&format!(
                "{}: good: {} listeners, {} shards",
                path.display(),
                config.listeners.len(),
                config.shards.len()
            ));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, if error.is_configuration() { 64 } else { 1 }),
    }
}

fn operate(operation: &Operation) -> ExitCode {
    match pointsman::cli::run(operation) {
        Ok(text) => {
            pointsman::cli::say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn users(command: UsersCommand) -> ExitCode {
    let UsersCommand::Build { input, output, format, config, json } = command;
    let csv = format.map(|format| format == UsersFormat::Csv);
    match control::build_users_map(input, output, csv, config.as_deref(), json) {
        Ok(text) => {
            pointsman::cli::say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, if error.is_input() { 64 } else { 1 }),
    }
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    pointsman::cli::complain(&format!("pointsman: {error}"));
    ExitCode::from(code)
}
