package load

// CPU time of processes, to the nanosecond; /proc/PID/stat has it in steps of
// 10 ms.

import (
	"os"

	"golang.org/x/sys/unix"
)

// CPU is CPU time, user and system, of all threads, in nanoseconds.
type CPU struct {
	Gateway  int64 `json:"gateway_cpu_ns"`
	Upstream int64 `json:"upstream_cpu_ns"`
	Load     int64 `json:"load_cpu_ns"`
}

func readClocks(o Options) (c CPU) {
	for _, pid := range o.Gateway {
		c.Gateway += cpuTime(pid)
	}
	if o.Upstream != 0 {
		c.Upstream = cpuTime(o.Upstream)
	}
	c.Load = cpuTime(os.Getpid())
	return c
}

func (c CPU) minus(before CPU) CPU {
	return CPU{c.Gateway - before.Gateway, c.Upstream - before.Upstream, c.Load - before.Load}
}

// cpuTime reads the clock of another process, as clock_getcpuclockid(3) names it.
func cpuTime(pid int) int64 {
	const cpuclockSched = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|cpuclockSched), &t); err != nil {
		return 0 // the process has ended, and requests to it fail
	}
	return t.Nano()
}
