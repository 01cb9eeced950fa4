// Command bench is what the benchmark has of its own, beside wrk and nginx: the relay, the
// callers at a distance, those whom memory is measured with, and the tables. run.sh
// starts it, and the upstream and the contenders before.
package main

import (
	"flag"
	"log"
	"time"
)

const rtt = 30 * time.Millisecond // to WeChat and back, at a distance

var (
	rounds = flag.Int("rounds", 3, "how often everything is measured, but after a lull")
	only   = flag.String("only", "", "measure only rows whose description has this in it")

	calls = flag.Int("calls", 20, "calls of each caller that follow upon each other, a round")
	lulls = flag.Int("lulls", 6, "rounds of one call after a lull")
	scale = flag.Float64("scale", 1, "of lulls, for a quick look")

	size   = flag.Int64("size", 10<<20, "of the media that memory is measured with, in bytes")
	hold   = flag.Duration("hold", 10*time.Second, "how long callers drip, or do not read")
	inARow = flag.Int("in-a-row", 3, "how often a gateway's last process gets a load, without a rest")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	commands := map[string]func(arguments []string){
		"relay": relays, "distance": distance, "memory": memory, "tables": tables, "short": short, "plot": plot,
	}
	command := commands[flag.Arg(0)]
	if command == nil {
		log.Fatal("bench [options] relay | distance <contender>… | memory <command of the gateway> | tables|short|plot <directory of figures>…")
	}
	command(flag.Args()[1:])
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
