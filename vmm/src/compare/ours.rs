//! The command that runs one of our own arms: `coopvirt run` of this very program.
//!
//! Pure; called by [`super::launch`].

use std::path::Path;

use super::args::Console;
use super::arm::Sidecore;
use super::launch::{Boot, VmCommand};
use super::pin;

/// Builds the command; the console is the child's standard output.
pub fn command(
    program: &Path,
    options: &[String],
    sidecore: Option<Sidecore>,
    boot: &Boot,
) -> VmCommand {
    let mut args: Vec<String> = vec!["run".into()];
    let mut option = |name: &str, value: String| args.extend([name.to_string(), value]);
    option("--kernel", boot.kernel.display().to_string());
    option("--initrd", boot.initrd.display().to_string());
    option("--cmdline", boot.cmdline.clone());
    option("--cpus", boot.cpus.to_string());
    option("--memory", format!("{}M", boot.memory_bytes >> 20));
    option("--disk", format!("{},ro", boot.disk.display()));
    option("--console", Console::name(boot.console).into());
    option("--exits", boot.exits_file.display().to_string());
    option("--accounting", "stats".into());
    option(
        "--pin",
        pin::list(boot.pinning).unwrap_or_else(|| "none".into()),
    );
    if boot.has_balloon {
        args.push("--balloon".into());
    }
    args.extend(options.iter().cloned());
    if let Some(sidecore) = sidecore {
        let policy = sidecore.policy;
        let cpu = pin::sidecore_cpu(boot.pinning, sidecore.place);
        let cpu = cpu.map_or_else(String::new, |cpu| format!(",cpu={cpu}"));
        args.extend(["--sidecore".into(), format!("{policy}{cpu}")]);
    }
    VmCommand {
        program: program.to_path_buf(),
        args,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::launch::tests::boot;

    #[test]
    fn the_arms_options_come_last() {
        let options = ["--mode", "hvm"].map(String::from);
        let command = command(Path::new("/bin/coopvirt"), &options, None, &boot());
        assert_eq!(
            command.args.join(" "),
            "run --kernel /k --initrd /i --cmdline quiet console=hvc0 --cpus 2 --memory 512M \
             --disk /d,ro --console virtio --exits /t/exits.json --accounting stats --pin 1-2,0 \
             --mode hvm"
        );
    }
}
