//! Tries the tracer on a QEMU microvm: `trace_qemu KERNEL SECONDS`.
use std::process::{Command, Stdio};
use std::time::Duration;

use coopvirt::account::tracer::{Tracer, TracerOptions};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let kernel = args.next().ok_or_else(|| anyhow::anyhow!("no kernel"))?;
    let seconds: u64 = args.next().unwrap_or_else(|| "20".into()).parse()?;
    let options = TracerOptions::default();
    let tracer = Tracer::start(options)?;
    let debug = std::env::var_os("QEMU_LOG").is_some();
    let mut child = Command::new("qemu-system-x86_64")
        .args([
            "-M",
            "microvm,rtc=on",
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-smp",
            "2",
            "-m",
            "512",
        ])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-serial",
            "stdio",
        ])
        .args([
            "-kernel",
            &kernel,
            "-append",
            "console=ttyS0 panic=0 tsc=reliable",
            "-no-reboot",
        ])
        .stdin(Stdio::null())
        .stdout(if debug {
            Stdio::inherit()
        } else {
            Stdio::null()
        })
        .spawn()?;
    tracer.target(child.id());
    std::thread::sleep(Duration::from_secs(seconds));
    // Before it dies, KVM's own counts: debugfs goes away with the VM.
    // Stopped, so that both counts speak of the same moment.
    Command::new("kill")
        .args(["-STOP", &child.id().to_string()])
        .status()?;
    std::thread::sleep(Duration::from_millis(300));
    println!("debugfs: {:?}", debugfs_stats(child.id()));
    let trace = tracer.finish()?;
    child.kill()?;
    child.wait()?;
    std::fs::write("out/trace.json", serde_json::to_string_pretty(&trace)?)?;
    println!(
        "total {} userspace {} host tick {}",
        trace.whole.total, trace.whole.userspace, trace.whole.host_tick
    );
    println!(
        "lost {} tick unknown {:?}",
        trace.lost, trace.host_tick_unknown
    );
    println!("{:?}", trace.whole.by_reason);
    let mut causes: Vec<_> = trace.whole.by_cause.iter().collect();
    causes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (cause, count) in causes.iter().take(25) {
        println!("{count:8} {cause}");
    }
    Ok(())
}

fn debugfs_stats(pid: u32) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let Ok(dirs) = std::fs::read_dir("/sys/kernel/debug/kvm") else {
        return out;
    };
    for dir in dirs.flatten() {
        if !dir
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{pid}-"))
        {
            continue;
        }
        for name in [
            "exits",
            "io_exits",
            "mmio_exits",
            "halt_exits",
            "irq_exits",
            "signal_exits",
        ] {
            let text = std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
            out.push((name.into(), text.trim().into()));
        }
    }
    out
}
