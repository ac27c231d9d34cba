package metrics

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pinwatch/pinwatch/output/format"
)

// handler answers for the metrics of a collector and of this process, and for its health.
func handler(c *Collector) (http.Handler, error) {
	registry := prometheus.NewPedanticRegistry()
	for _, one := range []prometheus.Collector{c, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := registry.Register(one); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		// That nothing can be written is no reason to start the agent again: it says so, and goes on.
		if c.Unrecorded != nil {
			if _, why := c.Unrecorded(); why != nil {
				fmt.Fprintf(w, "ok, but not recording: %s\n", format.Cause(why))
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
	return mux, nil
}

// Serve answers at an address until it is closed.
func Serve(address string, c *Collector) (io.Closer, error) {
	answer, err := handler(c)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: answer, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	go server.Serve(listener) // ends when it is closed
	return server, nil
}
