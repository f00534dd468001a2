//! Libraries of other languages, installed once into the target directory from their package registries.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

/// The interpreter of the virtual environment `name`, which has `requirements`.
pub fn python_with(name: &str, requirements: &[&str]) -> PathBuf {
    let dir = once(name, &requirements.join(" "), |dir| {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(dir));
        succeed(Command::new(dir.join("bin/pip")).args(["install", "--quiet"]).args(requirements));
    });
    dir.join("bin/python")
}

/// A directory that has `packages` for Node in its `node_modules`.
pub fn node_with(name: &str, packages: &[&str]) -> PathBuf {
    once(name, &packages.join(" "), |dir| {
        fs::write(dir.join("package.json"), "{\"private\": true}").unwrap();
        let mut npm = Command::new("npm");
        npm.current_dir(dir).args(["install", "--silent", "--no-audit", "--no-fund"]).args(packages);
        succeed(&mut npm);
    })
}

/// The program of the Go module at `source`, built with the versions of its go.sum.
pub fn go_program(name: &str, source: &Path) -> PathBuf {
    let text = |file: &str| fs::read_to_string(source.join(file)).unwrap();
    let version = text("go.sum") + &text("main.go");
    let dir = once(name, &version, |dir| {
        let mut go = Command::new("go");
        go.current_dir(source).args(["build", "-o"]).arg(dir.join("program")).arg(".");
        succeed(&mut go);
    });
    dir.join("program")
}

/// The program of a Go package in a version.
pub fn go_tool(package: &str, version: &str) -> PathBuf {
    let name = package.rsplit('/').next().unwrap();
    let dir = once(name, version, |dir| {
        let mut go = Command::new("go");
        succeed(go.env("GOBIN", dir).arg("install").arg(format!("{package}@{version}")));
    });
    dir.join(name)
}

/// The program of the Cargo package at `source`, built with the versions of its Cargo.lock.
pub fn cargo_program(name: &str, source: &Path) -> PathBuf {
    let text = |file: &str| fs::read_to_string(source.join(file)).unwrap();
    let version = text("Cargo.lock") + &text("main.rs");
    let dir = once(name, &version, |dir| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--locked", "--manifest-path"]).arg(source.join("Cargo.toml"));
        succeed(cargo.arg("--target-dir").arg(dir));
    });
    dir.join("debug").join(name)
}

/// `promtool`: of Debian's package `prometheus`, which is unpacked and not installed, because that would also start and
/// enable a server.
pub fn promtool() -> PathBuf {
    let dir = once("promtool", "", |dir| {
        let script = "cd \"$1\" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq \
                      prometheus; }; } && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb";
        succeed(Command::new("sh").args(["-c", script, "sh"]).arg(dir));
    });
    dir.join("usr/bin/promtool")
}

/// A directory with the jars of `source`/pom.xml.
pub fn java_with(name: &str, source: &Path) -> PathBuf {
    let pom = source.join("pom.xml");
    once(name, &fs::read_to_string(&pom).unwrap(), |dir| {
        let mut maven = Command::new("mvn");
        maven.args(["--quiet", "--batch-mode", "--file"]).arg(&pom).arg("dependency:copy-dependencies");
        succeed(maven.arg(format!("-DoutputDirectory={}", dir.display())));
    })
}

/// A directory with what is in a zip file of Maven's repository: `GROUP:ARTIFACT:VERSION:zip`.
pub fn maven_zip(name: &str, artifact: &str) -> PathBuf {
    once(name, artifact, |dir| {
        let mut maven = Command::new("mvn");
        maven.args(["--quiet", "--batch-mode", "dependency:copy"]).arg(format!("-Dartifact={artifact}"));
        succeed(maven.arg(format!("-DoutputDirectory={}", dir.display())));
        succeed(Command::new("sh").current_dir(dir).args(["-c", "unzip -q ./*.zip && rm ./*.zip"]));
    })
}

/// Creates the directory `name` unless it was created for the same `version` before. The lock is for
/// processes that do so at the same time.
fn once(name: &str, version: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
    fs::create_dir_all(&all).unwrap();
    let lock = File::create(all.join(format!("{name}.lock"))).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    let (dir, made) = (all.join(name), all.join(format!("{name}.made")));
    if fs::read_to_string(&made).ok().as_deref() != Some(version) {
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        make(&dir);
        fs::write(&made, version).unwrap();
    }
    dir
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}
