package main

import (
	"context"
	"errors"
	"log"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const audience = "https://api.example.com"

// client is one connection. A daemon that denies a call, or does not respond for a minute, ends the benchmark.
type client struct {
	conn     *grpc.ClientConn
	workload workload.SpiffeWorkloadAPIClient
}

func connect(socket string) client {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	return client{conn, workload.NewSpiffeWorkloadAPIClient(conn)}
}

func (c client) close() {
	_ = c.conn.Close()
}

func asked() (context.Context, context.CancelFunc) {
	ctx := metadata.AppendToOutgoingContext(context.Background(), "workload.spiffe.io", "true")
	return context.WithTimeout(ctx, time.Minute)
}

func (c client) jwt() {
	ctx, cancel := asked()
	defer cancel()
	answer, err := c.workload.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{audience}})
	if err != nil {
		log.Fatalf("FetchJWTSVID: %v", err)
	}
	if len(answer.Svids) != 1 || len(answer.Svids[0].Svid) < 100 {
		log.Fatal("FetchJWTSVID: not the one identity that was registered")
	}
}

// A call of a method that no daemon has: the cost of the client, the socket and HTTP/2 on both sides.
func (c client) unknown() {
	ctx, cancel := asked()
	defer cancel()
	err := c.conn.Invoke(ctx, "/SpiffeWorkloadAPI/FetchNothing", &workload.JWTSVIDRequest{}, &workload.JWTSVIDResponse{})
	if status.Code(err) != codes.Unimplemented {
		log.Fatalf("FetchNothing: %v", err)
	}
}

// Opens a stream of the method, reads its first message, and keeps the stream open until the end.
func (c client) follow(method string) context.CancelFunc {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "workload.spiffe.io", "true"))
	late := time.AfterFunc(time.Minute, cancel)
	defer late.Stop()
	var err error
	switch method {
	case "FetchX509SVID":
		err = c.followX509(ctx)
	case "FetchJWTBundles":
		err = c.followBundles(ctx)
	default:
		log.Fatalf("the streams are FetchX509SVID and FetchJWTBundles, not %s", method)
	}
	if err != nil {
		log.Fatalf("%s: %v", method, err)
	}
	return cancel
}

func (c client) followX509(ctx context.Context) error {
	stream, err := c.workload.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return err
	}
	answer, err := stream.Recv()
	if err == nil && (len(answer.Svids) != 1 || len(answer.Svids[0].X509Svid) < 100) {
		return errors.New("not the one identity that was registered")
	}
	return err
}

func (c client) followBundles(ctx context.Context) error {
	stream, err := c.workload.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{})
	if err != nil {
		return err
	}
	answer, err := stream.Recv()
	if err == nil && len(answer.Bundles) != 1 {
		return errors.New("not the one bundle that there is")
	}
	return err
}
